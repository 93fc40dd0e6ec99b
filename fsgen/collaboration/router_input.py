"""What a router sees of a position: the record of the default model there.

Shape legend: N positions, K most likely tokens (as many as every stored list holds: dump.min_top_k).
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.tables import parquet

COLUMNS = ["top_logits", "logsumexp", "entropy"]


class RouterInput(NamedTuple):
    """Records at N positions, in the float32 that dumps store; logits and entropy in nats."""

    top_logits_NK: np.ndarray
    """Falling; -inf beyond the end of a vocabulary of fewer than K tokens."""
    logsumexp_N: np.ndarray
    entropy_N: np.ndarray

    def take(self, rows: np.ndarray) -> "RouterInput":
        """The records at these rows."""
        return RouterInput(*(array[rows] for array in self))

    @property
    def probability_NK(self) -> np.ndarray:
        """Probabilities of the K most likely tokens, in double precision."""
        return np.exp(self.top_logits_NK.astype(np.float64) - self.logsumexp_N[:, None])


def blank_router_input(rows: int, width: int) -> RouterInput:
    """Records of nothing, to be filled in."""
    return RouterInput(np.full((rows, width), -np.inf, np.float32), *np.zeros((2, rows), np.float32))


def router_input_columns(width: int) -> list[pl.Expr]:
    """COLUMNS of a dump with its lists cut to the K = `width` tokens that routers see."""
    return [pl.col("top_logits").list.head(width), pl.col("logsumexp"), pl.col("entropy")]


def router_input(rows: pl.DataFrame, width: int) -> RouterInput:
    """What routers see at rows that hold `columns(width)`."""
    top_NK = parquet.pad_lists(rows["top_logits"], -np.inf, width)
    return RouterInput(top_NK, rows["logsumexp"].to_numpy(), rows["entropy"].to_numpy())
