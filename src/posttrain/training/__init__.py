"""Micro-batches to checked optimizer updates, and checkpoints of them."""
