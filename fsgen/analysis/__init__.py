"""Counts become numbers: ratios, costs and accuracies, with intervals.

Nothing is drawn and no model runs.
"""
