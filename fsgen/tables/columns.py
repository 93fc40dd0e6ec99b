"""Columns that several tables share."""

import pyarrow as pa

PAIR = ("pair", pa.string(), "pair, a key of params.yaml")
POLICY = [
    ("method", pa.string(), "method of the policy"),
    ("router", pa.string(), "its router; `drafting` for speculative decoding"),
    ("policy", pa.string(), "policy"),
]
