"""Intervals for what a sample of prompts shows: shares, ratios of sums, paired differences, any statistic.

Shape legend: P prompts (the clusters: tokens of one prompt are not independent), B replicates, X counts
of a prompt that add up over prompts.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

AT_ONCE = 250  # samples of the prompts in memory together
REMEMBERED = 8192  # prompts up to which drawn samples are kept for the next interval: 262 MB at most
NO_SPREAD = 1e-12  # relative spread of the jackknife below which rounding is all that is left


class Interval(NamedTuple):
    """An estimate with its lower and upper end, in its own unit."""

    value: float
    low: float
    high: float

    @classmethod
    def of_constant(cls, value: float) -> "Interval":
        """A value that no other sample of prompts would change."""
        return cls(value, value, value)


def interval_columns(interval: Interval | None, name: str) -> dict[str, float | None]:
    """An interval as the columns name, name_low and name_high: null without one, and at an unbounded end."""
    numbers = (None if x is None or math.isinf(x) else x for x in interval or (None, None, None))
    return dict(zip(columns_of(name), numbers, strict=True))


def columns_of(name: str) -> tuple[str, str, str]:
    """The columns of a number with its interval."""
    return name, f"{name}_low", f"{name}_high"


def interval_json(row: dict, name: str) -> dict[str, float | None]:
    """A number of a row with its interval, as metrics hold it: value, low and high, six decimals."""
    return dict(zip(("value", "low", "high"), rounded(row, *columns_of(name)).values(), strict=True))


def rounded(row: dict, *names: str) -> dict[str, float | None]:
    """These columns of a row as metrics hold them: six decimals, null where there is no number."""
    return {name: None if row[name] is None else round(row[name], 6) for name in names}


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
    limits: tuple[float, float] | None = None,
    level: float = 0.95,
    replicates: int = 2000,
) -> Interval:
    """sum(numerator) / sum(denominator) over prompts, with a BCa cluster bootstrap interval.

    Prompts whose denominator is 0 say nothing and are left out. `limits` are what a prompt's ratio
    can be; where none are known it is taken for a share if every numerator lies between 0 and its
    denominator. The bootstrap has no spread with fewer than two prompts, or if all have the same ratio;
    `_degenerate_interval` then covers prompts that were not seen. A share of 0 or 1 gets Wilson's
    bound at the number of prompts, a single prompt everything within the limits, and a ratio without
    limits the whole line, infinite ends included.

    Raises ValueError on a negative denominator, one that sums to 0, or a numerator without one.
    """
    numerator_P, denominator_P = _paired(numerator_P, denominator_P)
    if (denominator_P < 0).any() or not denominator_P.any():
        raise ValueError("Expected denominators of at least 0 whose sum is above 0.")
    if numerator_P[denominator_P == 0].any():
        raise ValueError("Expected a numerator of 0 where the denominator is 0.")
    kept_P = denominator_P > 0
    counts_P2 = np.column_stack([numerator_P, denominator_P])[kept_P]
    if limits is None:
        is_share = ((numerator_P >= 0) & (numerator_P <= denominator_P)).all()
        limits = (0.0, 1.0) if is_share else (-np.inf, np.inf)
    return bca(_quotient, counts_P2, seed=seed, limits=limits, level=level, replicates=replicates)


def _quotient(sums_X: np.ndarray) -> np.ndarray:
    return sums_X[..., 0] / sums_X[..., 1]


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
    counts_P2 = np.column_stack([a_P - b_P, np.ones_like(a_P)])
    return bca(_quotient, counts_P2, seed=seed, limits=limits, level=level, replicates=replicates)


def _paired(a_P: np.ndarray, b_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a_P, b_P = np.asarray(a_P, dtype=np.float64), np.asarray(b_P, dtype=np.float64)
    if a_P.ndim != 1 or a_P.shape != b_P.shape:
        raise ValueError(f"Expected one number a prompt twice, got shapes {a_P.shape}, {b_P.shape}.")
    if not (np.isfinite(a_P).all() and np.isfinite(b_P).all()):
        raise ValueError("Expected finite numbers for every prompt.")
    return a_P, b_P


def bca(
    statistic: Callable[[np.ndarray], np.ndarray],
    counts_PX: np.ndarray,
    *,
    seed: int,
    limits: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
    replicates: int = 2000,
) -> Interval:
    """Bias-corrected and accelerated cluster bootstrap of any statistic of summed counts.

    `statistic` maps sums [..., X] of the prompts' counts to values [...]; a sample of prompts on
    which it is nan (no mismatch drawn, say) is left out. Where it shows no spread the interval
    covers prompts that were not seen, within `limits` (`_degenerate_interval`).
    Efron 1987, JASA 82: 171-185, eq. 2.3.

    Raises ValueError where the statistic of all prompts together is no finite number.
    """
    total_X = counts_PX.sum(axis=0)
    value = float(statistic(total_X))
    if not np.isfinite(value):
        raise ValueError(f"Expected a finite statistic of all prompts together, got {value}.")
    jackknife_P = statistic(total_X - counts_PX) if len(counts_PX) > 1 else np.full(1, np.nan)
    if not _has_spread(jackknife_P):  # no replicate would differ either
        return _degenerate_interval(value, limits, len(counts_PX), level)
    drawn = [statistic(sums_BX) for sums_BX in resampled(counts_PX, seed, replicates)]
    return accelerated(value, np.concatenate(drawn), jackknife_P, limits=limits, level=level)


def accelerated(
    value: float,
    value_B: np.ndarray,
    jackknife_P: np.ndarray,
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
) -> Interval:
    """The interval of `bca` from replicates and leave-one-prompt-out values at hand; nan is left out."""
    value_B = value_B[np.isfinite(value_B)]
    if not _has_spread(jackknife_P) or not len(value_B):
        return _degenerate_interval(value, limits, len(jackknife_P), level)
    jackknife_P = jackknife_P[np.isfinite(jackknife_P)]
    bias = _bias(value_B, value)
    shifted_2 = bias + _expanded(level, len(jackknife_P)) * np.array([-1.0, 1.0])
    # an acceleration past the formula's pole means the outermost replicate
    stretch_2 = np.maximum(1 - _acceleration(jackknife_P) * shifted_2, NO_SPREAD)
    low, high = np.quantile(value_B, norm.cdf(bias + shifted_2 / stretch_2))
    return _enclosing(value, low, high)


def _has_spread(jackknife_P: np.ndarray) -> bool:
    """Whether leaving out one prompt or another makes a difference beyond rounding."""
    known_P = jackknife_P[np.isfinite(jackknife_P)]
    return len(known_P) > 1 and np.ptp(known_P) > NO_SPREAD * np.abs(known_P).max()


def resampled(counts_PX: np.ndarray, seed: int, replicates: int) -> Iterator[np.ndarray]:
    """Summed counts of `replicates` multinomial samples of the prompts, in pieces [B, X].

    The same seed and number of prompts draw the same samples, which so are paired between tables.
    """
    prompts = len(counts_PX)
    weigh = _weights if prompts <= REMEMBERED else _weights.__wrapped__
    for piece, first in enumerate(range(0, replicates, AT_ONCE)):
        yield weigh(seed, piece, prompts)[: replicates - first].astype(np.float64) @ counts_PX


@functools.lru_cache(maxsize=64)  # drawing takes far longer than weighing; thousands of intervals share it
def _weights(seed: int, piece: int, prompts: int) -> np.ndarray:
    """How often each prompt occurs in AT_ONCE samples of as many prompts, [B, P]."""
    generator = np.random.Generator(np.random.PCG64([seed, piece]))
    times_BP = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=AT_ONCE)
    return times_BP.astype(np.uint16)  # which a prompt's share of the draws, one on average, never fills


def _bias(value_B: np.ndarray, value: float) -> float:
    """z0: where the value stands among its replicates, in normal deviates; ties count half."""
    below = (value_B < value).sum() + (value_B == value).sum() / 2
    return float(norm.ppf(np.clip(below, 0.5, len(value_B) - 0.5) / len(value_B)))


def _acceleration(jackknife_P: np.ndarray) -> float:
    """A sixth of the skewness of the jackknife (Efron and Tibshirani 1993, eq. 14.15)."""
    away_P = jackknife_P.mean() - jackknife_P
    away_P = away_P / np.abs(away_P).max()  # cubes of tiny numbers would vanish
    return float((away_P**3).sum() / (6 * (away_P**2).sum() ** 1.5))


def _degenerate_interval(value: float, limits: tuple[float, float], prompts: int, level: float) -> Interval:
    """Interval around a value on which all prompts agree, so that none of them shows any spread.

    At most a share u of all prompts, Wilson's upper bound on 0 of P, may have another value, and
    that one may lie anywhere within the limits. One prompt leaves everything open.
    """
    lowest, highest = limits
    share = wilson(0, prompts, level).high if prompts > 1 else 1.0
    low, high = value - share * (value - lowest), value + share * (highest - value)
    return _enclosing(value, max(low, lowest), min(high, highest))


def _enclosing(value: float, low: float, high: float) -> Interval:
    """Python floats with low <= value <= high, which rounding alone could break."""
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def _expanded(level: float, prompts: int) -> float:
    """Normal deviate widened for few prompts: t for z, and the spread's own bias (Hesterberg 2015, 5.3).

    The American Statistician 69: 371-386. Percentiles of resamples alone are too narrow by that much.
    """
    return float(t.ppf((1 + level) / 2, prompts - 1) * np.sqrt(prompts / (prompts - 1)))


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1, got {level}.")
    return float(norm.ppf((1 + level) / 2))
