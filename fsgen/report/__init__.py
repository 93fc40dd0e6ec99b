"""What people read: the summary table, figures, the page with its explorer, archived runs.

Everything is drawn from stored tables.
"""
