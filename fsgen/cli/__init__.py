"""The `fsgen` command: a file for each group of commands, thin functions that parse words and call a package.

`single_run`, `cost_estimates`, `stage_work` and `step_times` do the work of commands that need many packages.
"""
