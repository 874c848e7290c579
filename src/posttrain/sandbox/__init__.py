"""Killable processes for untrusted code and templates."""
