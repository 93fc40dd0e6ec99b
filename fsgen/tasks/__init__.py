"""Benchmarks: rows become prompts, and a text becomes a verdict.

Adding one is a module and a line in the registry.
"""
