"""Tasks, and the runner that measures them."""
