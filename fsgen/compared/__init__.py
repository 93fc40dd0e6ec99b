"""Policies compared with one another, with their estimates and with the large model: maths and tables."""
