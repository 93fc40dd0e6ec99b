"""Benchmarks: rows become prompts, and a text becomes a verdict.

A new one is a module that ends in a `Task`, and a line in the registry.
"""
