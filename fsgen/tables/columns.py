"""Columns that several tables share."""

import pyarrow as pa

PAIR = ("pair", pa.string(), "pair, a key of params.yaml")
POLICY = [
    ("method", pa.string(), "method of the policy"),
    ("router", pa.string(), "its router; `drafting` for speculative decoding"),
    ("policy", pa.string(), "policy"),
]


def with_interval(name: str, meaning: str) -> list[tuple[str, pa.DataType, str]]:
    """A number's column, and those of the ends of its 95 % interval over prompts."""
    return [
        (name, pa.float64(), meaning),
        (f"{name}_low", pa.float64(), "lower end of its 95 % interval over prompts; null where unbounded"),
        (f"{name}_high", pa.float64(), "upper end; null where unbounded"),
    ]
