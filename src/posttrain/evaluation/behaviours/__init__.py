"""Suites that ask whether a policy shows a behaviour: descriptions, rows that a model writes, and their filter.

Source: Perez et al. 2022, "Discovering Language Model Behaviors with Model-Written Evaluations" (arXiv 2212.09251).
"""
