"""Columns that the tables of comparisons share, and how an interval fills them."""

import pyarrow as pa

from fsgen.intervals import Interval
from fsgen.policies import Policy

PAIR = ("pair", pa.string(), "pair, a key of params.yaml")
POLICY = [
    ("method", pa.string(), "method of the policy"),
    ("router", pa.string(), "its router; `drafting` for speculative decoding"),
    ("policy", pa.string(), "policy"),
]
ENDS = [
    ("low", pa.float64(), "lower end of its 95 % interval over prompts"),
    ("high", pa.float64(), "upper end"),
]


def named(policy: Policy) -> dict[str, str]:
    """The columns of POLICY."""
    return {"method": policy.method, "router": policy.router or "drafting", "policy": policy.name}


def told(found: Interval, value: str, low: str = "low", high: str = "high") -> dict[str, float]:
    """An interval as three columns."""
    return dict(zip((value, low, high), found, strict=True))
