"""Collaboration frequency against model sizes: laws, their fits and intervals, predictions.

Works on our dumps and on the published table alike.
"""
