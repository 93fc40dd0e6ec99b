"""Columns that several tables share."""

import pyarrow as pa

PAIR = ("pair", pa.string(), "pair, a key of params.yaml")
POLICY = [
    ("method", pa.string(), "method of the policy"),
    ("router", pa.string(), "its router; `drafting` for speculative decoding"),
    ("policy", pa.string(), "policy"),
]
CI_COLUMNS = [  # beside the estimate's own column
    ("low", pa.float64(), "lower end of its 95 % interval over prompts"),
    ("high", pa.float64(), "upper end"),
]
