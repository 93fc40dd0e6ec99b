"""What verdicts rest on: equality of formulas, a sandbox for generated programs, a judge model.

Each works without the other packages.
"""
