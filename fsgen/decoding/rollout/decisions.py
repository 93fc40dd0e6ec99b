"""Decisions of policies as named arrays, one entry for each token that a policy chose.

Shape legend: N decisions.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from fsgen.collaboration.router_input import RouterInput

Arrays = TypeVar("Arrays")


class Decisions(NamedTuple):
    """What N decisions depended on, and what they were."""

    run_N: np.ndarray
    """Index of the policy's run."""
    prompt_N: np.ndarray
    """Index of the prompt."""
    pos_N: np.ndarray
    """Position of the token in its text, from 0."""
    called_N: np.ndarray
    """Whether the router called the large model."""
    default_id_N: np.ndarray
    """Top token of the method's default model, which is written without a call."""
    small_id_N: np.ndarray
    """Top token of the small model."""
    fused_id_N: np.ndarray
    """Top token of the method's fused scores, which is written after a call."""
    seen: RouterInput
    """What the router saw of the default model."""


def concatenate(parts: Sequence[Arrays]) -> Arrays:
    """Arrays joined along their first axis, or named tuples of them joined field by field.

    `parts` holds one at least, all of the same type.
    """
    first = parts[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    return type(first)(*map(concatenate, zip(*parts, strict=True)))
