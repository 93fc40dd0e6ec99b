"""Models generate and score texts: greedy generation, teacher forcing, rollouts.

Each module that does a stage's work bears the stage's name.
"""
