"""How uncertainty relates to mismatches: discrimination, calibration, positions, projections.

Scores come from the small model's records.
"""
