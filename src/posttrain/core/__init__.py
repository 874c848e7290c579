"""Records, protocols and small services that every other room relies on; imports nothing above it."""
