"""Loading, validating, adapting and saving policies."""
