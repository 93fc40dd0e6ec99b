"""What people read: the headline table, figures, the page with its explorer, archived runs.

Everything is drawn from stored tables.
"""
