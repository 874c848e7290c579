"""Attention over packed rows and log-probs of chosen tokens, without a logits tensor."""
