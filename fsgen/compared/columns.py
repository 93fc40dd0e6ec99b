"""Columns that the tables of comparisons share."""

import pyarrow as pa

from fsgen.policies import Policy

PAIR = ("pair", pa.string(), "pair, a key of params.yaml")
POLICY = [
    ("method", pa.string(), "method of the policy"),
    ("router", pa.string(), "its router; `drafting` for speculative decoding"),
    ("policy", pa.string(), "policy"),
]


def named(policy: Policy) -> dict[str, str]:
    """The columns of POLICY."""
    return {"method": policy.method, "router": policy.router or "drafting", "policy": policy.name}
