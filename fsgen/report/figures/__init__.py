"""The figures, each drawn from one query.

They are byte-stable SVG.
"""
