"""Intervals for what a sample of prompts shows: shares, ratios of sums, paired differences.

Shape legend: P prompts (the clusters: tokens of one prompt are not independent), B replicates.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

DRAWS_AT_ONCE = 1 << 20  # resampled prompts in memory together: 8 MB of indices
NO_SPREAD = 1e-12  # relative spread of the jackknife below which rounding is all that is left


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Share of successes with its score interval (Wilson 1927, JASA 22: 209-212).

    Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n and n >= 1, got {successes} of {n}.")
    share, z2_per_n = successes / n, _z(level) ** 2 / n
    centre = (share + z2_per_n / 2) / (1 + z2_per_n)
    half = np.sqrt(z2_per_n * (share * (1 - share) + z2_per_n / 4)) / (1 + z2_per_n)
    return _enclosing(share, max(centre - half, 0.0), min(centre + half, 1.0))


def ratio(
    numerator_P: np.ndarray,
    denominator_P: np.ndarray,
    *,
    seed: int,
    level: float = 0.95,
    replicates: int = 2000,
) -> Interval:
    """sum(numerator) / sum(denominator) over prompts, with a BCa cluster bootstrap interval.

    Prompts whose denominator is 0 say nothing and are left out. The ratio is taken for a share
    where every numerator lies between 0 and its denominator. Where the bootstrap has no spread
    (fewer than two prompts, or the same ratio in all), the interval covers the prompts not seen,
    see `_unseen`: a share of 0 or 1 gets Wilson's bound at the number of prompts, a single prompt
    all of [0, 1], and what is no share the whole line, infinite ends included.

    Raises ValueError on a negative denominator, one that sums to 0, or a numerator without one.
    """
    numerator_P, denominator_P = _paired(numerator_P, denominator_P)
    if (denominator_P < 0).any() or not denominator_P.any():
        raise ValueError("Expected denominators of at least 0 whose sum is above 0.")
    if numerator_P[denominator_P == 0].any():
        raise ValueError("Expected a numerator of 0 wherever the denominator is 0.")
    kept_P = denominator_P > 0
    numerator_P, denominator_P = numerator_P[kept_P], denominator_P[kept_P]
    is_share = ((numerator_P >= 0) & (numerator_P <= denominator_P)).all()
    limits = (0.0, 1.0) if is_share else (-np.inf, np.inf)
    return _bca(numerator_P, denominator_P, limits, seed, level, replicates)


def mean_difference(
    a_P: np.ndarray,
    b_P: np.ndarray,
    *,
    seed: int,
    level: float = 0.95,
    replicates: int = 2000,
) -> Interval:
    """Mean of a - b over the same prompts, with a BCa paired bootstrap interval.

    Values within [0, 1], verdicts say, bound the difference by [-1, 1]. Where all differences are
    equal the interval covers the prompts not seen, as in `ratio`: two policies with the same
    verdict on 100 prompts may still differ on the next ones.

    Raises ValueError without prompts.
    """
    a_P, b_P = _paired(a_P, b_P)
    if not len(a_P):
        raise ValueError("Expected at least one prompt, got none.")
    both_2P = np.stack([a_P, b_P])
    is_bounded = ((both_2P >= 0) & (both_2P <= 1)).all()
    limits = (-1.0, 1.0) if is_bounded else (-np.inf, np.inf)
    return _bca(a_P - b_P, np.ones_like(a_P), limits, seed, level, replicates)


def _paired(a_P: np.ndarray, b_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a_P, b_P = np.asarray(a_P, dtype=np.float64), np.asarray(b_P, dtype=np.float64)
    if a_P.ndim != 1 or a_P.shape != b_P.shape:
        raise ValueError(f"Expected one number a prompt twice, got shapes {a_P.shape}, {b_P.shape}.")
    if not (np.isfinite(a_P).all() and np.isfinite(b_P).all()):
        raise ValueError("Expected finite numbers for every prompt.")
    return a_P, b_P


def _bca(
    numerator_P: np.ndarray,
    denominator_P: np.ndarray,
    limits: tuple[float, float],
    seed: int,
    level: float,
    replicates: int,
) -> Interval:
    """Bias-corrected and accelerated bootstrap (Efron 1987, JASA 82: 171-185, eq. 2.3)."""
    prompts, value = len(numerator_P), numerator_P.sum() / denominator_P.sum()
    if prompts < 2:
        return _unseen(value, limits, prompts, level)
    jackknife_P = (numerator_P.sum() - numerator_P) / (denominator_P.sum() - denominator_P)
    if np.ptp(jackknife_P) <= NO_SPREAD * np.abs(jackknife_P).max():
        return _unseen(value, limits, prompts, level)
    value_B = _resampled(numerator_P, denominator_P, seed, replicates)
    bias = _bias(value_B, value)
    shifted_2 = bias + _z(level) * np.array([-1.0, 1.0])
    # an acceleration past the formula's pole means the outermost replicate
    stretch_2 = np.maximum(1 - _acceleration(jackknife_P) * shifted_2, NO_SPREAD)
    low, high = np.quantile(value_B, norm.cdf(bias + shifted_2 / stretch_2))
    return _enclosing(value, low, high)


def _resampled(numerator_P: np.ndarray, denominator_P: np.ndarray, seed: int, replicates: int) -> np.ndarray:
    """The ratio on `replicates` multinomial samples of the prompts, [B]."""
    generator, prompts = np.random.Generator(np.random.PCG64(seed)), len(numerator_P)
    rows = max(1, DRAWS_AT_ONCE // prompts)
    pieces = []
    for first in range(0, replicates, rows):
        drawn_BP = generator.integers(prompts, size=(min(rows, replicates - first), prompts))
        pieces.append(numerator_P[drawn_BP].sum(axis=1) / denominator_P[drawn_BP].sum(axis=1))
    return np.concatenate(pieces)


def _bias(value_B: np.ndarray, value: float) -> float:
    """z0: where the value stands among its replicates, in normal deviates; ties count half."""
    below = (value_B < value).sum() + (value_B == value).sum() / 2
    return float(norm.ppf(np.clip(below, 0.5, len(value_B) - 0.5) / len(value_B)))


def _acceleration(jackknife_P: np.ndarray) -> float:
    """A sixth of the skewness of the jackknife (Efron and Tibshirani 1993, eq. 14.15)."""
    away_P = jackknife_P.mean() - jackknife_P
    away_P = away_P / np.abs(away_P).max()  # cubes of tiny numbers would vanish
    return float((away_P**3).sum() / (6 * (away_P**2).sum() ** 1.5))


def _unseen(value: float, limits: tuple[float, float], prompts: int, level: float) -> Interval:
    """Interval around a value on which all prompts agree, so that none of them shows any spread.

    At most a share u of all prompts, Wilson's upper bound on 0 of P, may have another value, and
    that one may lie anywhere within the limits. One prompt leaves everything open.
    """
    floor, ceiling = limits
    share = wilson(0, prompts, level).high if prompts > 1 else 1.0
    low, high = value - share * (value - floor), value + share * (ceiling - value)
    return _enclosing(value, max(low, floor), min(high, ceiling))


def _enclosing(value: float, low: float, high: float) -> Interval:
    """Python floats with low <= value <= high, which rounding alone could break."""
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1, got {level}.")
    return float(norm.ppf((1 + level) / 2))
