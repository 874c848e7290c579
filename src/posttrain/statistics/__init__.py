"""Intervals and tests as pure arithmetic."""
