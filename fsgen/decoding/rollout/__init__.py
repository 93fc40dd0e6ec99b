"""The closed loop: every policy writes its own text.

Policies that share a prefix share its computation.
"""
