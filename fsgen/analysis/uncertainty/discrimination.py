"""How well a score tells mismatches from matches: ranking, calibration, and where the mismatches lie.

Shape legend: N tokens, P prompts, X score bins twice (matches, then mismatches, by rising uncertainty),
Q quantities, D deciles. A score here measures uncertainty: the higher, the likelier a mismatch.
"""

from typing import NamedTuple

import numpy as np

from fsgen.analysis import intervals
from fsgen.analysis.intervals import Interval

BINS = 256  # a bin holds one distinct score where there are no more than these
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
DECILES = 10
FALLS_WITH_UNCERTAINTY = ("max_probability", "margin")  # scores that are low where a model is uncertain
PROBABILITIES = ("max_probability", "logistic", "svm")  # which predict P(mismatch)


class Ranking(NamedTuple):
    """How a score ranks tokens; None where all are matches or all mismatches."""

    auroc: Interval | None
    """P(a mismatch has a higher uncertainty than a match), ties half."""
    average_precision: Interval | None
    """Mean precision over recall; of a useless score the share of mismatches."""
    lorenz: list[Interval] | None
    """Share of all mismatches in the SHARES of tokens with the highest uncertainty."""


class Decile(NamedTuple):
    """A tenth of the tokens by uncertainty."""

    mean_uncertainty: float
    tokens: int
    rate: Interval
    """Share of mismatches."""


def uncertainty_of(score: str, value_N: np.ndarray) -> np.ndarray:
    """The score, turned so that it rises with uncertainty."""
    return 1 - value_N if score in FALLS_WITH_UNCERTAINTY else value_N


def rank(
    uncertainty_N: np.ndarray,
    mismatch_N: np.ndarray,
    prompt_N: np.ndarray,
    *,
    seed: int,
    replicates: int = 1000,
) -> Ranking:
    """AUROC, average precision and Lorenz shares with BCa intervals over prompts.

    Values are exact. The samples of the bootstrap rank by BINS bins of equally many tokens, so that
    their cost does not grow with the tokens, and are moved by what that takes from the value.
    """
    if mismatch_N.all() or not mismatch_N.any():
        return Ranking(None, None, None)
    levels_N = np.unique(uncertainty_N, return_inverse=True)[1]
    value_Q = measure(count(levels_N, mismatch_N, np.zeros(len(uncertainty_N)))[0])
    counts_PX = count(_binned(uncertainty_N, levels_N), mismatch_N, prompt_N)
    total_X = counts_PX.sum(axis=0)
    drawn = [measure(sums_BX) for sums_BX in intervals.resampled(counts_PX, seed, replicates)]
    drawn_BQ = (np.concatenate(drawn) + value_Q - measure(total_X)).clip(0, 1)
    columns = zip(value_Q.tolist(), drawn_BQ.T, measure(total_X - counts_PX).T, strict=True)
    result = [intervals.accelerated(*column) for column in columns]
    return Ranking(result[0], result[1], result[2:])


def _binned(uncertainty_N: np.ndarray, levels_N: np.ndarray) -> np.ndarray:
    """The levels themselves where there are at most BINS, else bins of like size, by rising uncertainty."""
    if levels_N.max() < BINS:
        return levels_N
    edges = np.unique(np.quantile(uncertainty_N, np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.searchsorted(edges, uncertainty_N, side="right")


def count(level_N: np.ndarray, mismatch_N: np.ndarray, prompt_N: np.ndarray) -> np.ndarray:
    """Matches and mismatches of each prompt at each level, [P, X]."""
    names, row_N = np.unique(prompt_N, return_inverse=True)
    levels = int(level_N.max()) + 1
    cell_N = row_N * 2 * levels + mismatch_N * levels + level_N
    return np.bincount(cell_N, minlength=len(names) * 2 * levels).reshape(len(names), -1).astype(np.float64)


def measure(sums_X: np.ndarray) -> np.ndarray:
    """AUROC, average precision and Lorenz shares of summed counts, [..., Q]; nan without both kinds."""
    match_X, mismatch_X = np.split(sums_X, 2, axis=-1)
    below_X = match_X.cumsum(axis=-1) - match_X / 2
    # from the most uncertain bin on
    hit_X, all_X = mismatch_X[..., ::-1].cumsum(axis=-1), (match_X + mismatch_X)[..., ::-1].cumsum(axis=-1)
    hits, matches = hit_X[..., -1], match_X.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = (mismatch_X * below_X).sum(axis=-1) / (hits * matches)
        precision_X = np.where(all_X > 0, hit_X / all_X, 0.0)
        average = (mismatch_X[..., ::-1] * precision_X).sum(axis=-1) / hits
        lorenz = _lorenz(hit_X / hits[..., None], all_X / all_X[..., -1:])
    return np.concatenate([auroc[..., None], average[..., None], lorenz], axis=-1)


def _lorenz(hit_X: np.ndarray, all_X: np.ndarray) -> np.ndarray:
    """Share of hits in the first SHARES of all, a bin's hits spread evenly over it."""
    shares = np.array(SHARES)
    position = (all_X[..., None, :] < shares[:, None] - 1e-12).sum(axis=-1).clip(max=all_X.shape[-1] - 1)
    before = np.maximum(position - 1, 0)
    all1, hit1 = np.take_along_axis(all_X, position, -1), np.take_along_axis(hit_X, position, -1)
    all0 = np.where(position > 0, np.take_along_axis(all_X, before, -1), 0.0)
    hit0 = np.where(position > 0, np.take_along_axis(hit_X, before, -1), 0.0)
    part = np.divide(shares - all0, all1 - all0, out=np.ones_like(all1), where=all1 > all0)
    return hit0 + part.clip(0, 1) * (hit1 - hit0)


def brier(chance_N: np.ndarray, mismatch_N: np.ndarray, prompt_N: np.ndarray, *, seed: int) -> Interval:
    """Mean squared error of P(mismatch), with its interval over prompts."""
    _, row_N = np.unique(prompt_N, return_inverse=True)
    squares_P = np.bincount(row_N, weights=(chance_N - mismatch_N) ** 2)
    return intervals.ratio(squares_P, np.bincount(row_N), seed=seed)


def deciles(
    uncertainty_N: np.ndarray, mismatch_N: np.ndarray, prompt_N: np.ndarray, *, seed: int
) -> list[Decile]:
    """Deciles of the tokens by uncertainty; equal scores stay together, so one may be empty."""
    ranks_N = np.searchsorted(np.sort(uncertainty_N), uncertainty_N, side="left")
    tenth_N = ranks_N * DECILES // len(uncertainty_N)
    result = []
    for tenth in np.unique(tenth_N):
        mine = tenth_N == tenth
        share = rate(mismatch_N[mine], prompt_N[mine], seed=seed)
        result.append(Decile(float(uncertainty_N[mine].mean()), int(mine.sum()), share))
    return result


def rate(mismatch_N: np.ndarray, prompt_N: np.ndarray, *, seed: int) -> Interval:
    """Share of mismatches with its interval over prompts."""
    _, row_N = np.unique(prompt_N, return_inverse=True)
    return intervals.ratio(np.bincount(row_N, weights=mismatch_N), np.bincount(row_N), seed=seed)
