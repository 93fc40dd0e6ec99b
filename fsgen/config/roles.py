"""The roles that the models of a pair play; every comparison of a role is with one of these names."""

SMALL = "small"  # writes by default (System 1)
TUNED = "tuned"  # the small model after fine-tuning, which writes by default under `proxy`
LARGE = "large"  # is called (System 2)
ROLES = (SMALL, TUNED, LARGE)  # in reading order
