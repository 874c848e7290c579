"""Attention over packed rows, log-probs of chosen tokens without a logits tensor, and the choice of the next token."""
