"""Losses as pure arithmetic, and the one place that divides."""
