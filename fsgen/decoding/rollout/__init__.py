"""Rollouts: every policy writes its own texts, so each decision depends on the tokens before it.

Policies are replayed along dumped texts, and a prefix tree computes what the rest of their texts share once.
"""
