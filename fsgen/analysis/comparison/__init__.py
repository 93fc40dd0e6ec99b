"""Policies against each other: frontiers, routers at equal calls, off-policy estimates, drafting.

Comparisons are paired by prompt.
"""
