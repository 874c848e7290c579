"""Monitors: what watches for the failures that a good score hides."""
