"""The `fsgen` command, a file a group of commands.

Each parses words and calls one package; the work lies below.
"""
