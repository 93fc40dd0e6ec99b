"""Benchmarks, one a file: rows become prompts, answers become verdicts."""
