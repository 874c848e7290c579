"""Commands that measure this project beside its peers, on the same work, on the machine at hand."""
