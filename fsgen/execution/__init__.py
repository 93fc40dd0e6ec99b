"""How a stage runs: progress, shards that survive a kill, executors, memory limits, timings.

No module here knows what a model or a task is.
"""
