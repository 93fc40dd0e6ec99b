"""Figures: each is one function of the result of one query in queries/figures/."""
