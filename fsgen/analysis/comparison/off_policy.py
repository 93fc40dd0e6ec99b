"""Off-policy estimates next to rollouts, and how long a policy stays on the dumped text.

Shape legend: P texts (one a prompt), 4 counts of a prompt.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from fsgen.analysis import intervals
from fsgen.analysis.fixed_counts import FixedCounts
from fsgen.analysis.intervals import interval_columns
from fsgen.config.policies import Policy, name_policy


class Survival(NamedTuple):
    """Kaplan and Meier's estimate at some positions; the ends are nan where there are none."""

    at_risk: np.ndarray
    """Texts that go on from the position and have not been left before it, as far as can be proven."""
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def kaplan_meier(kept_P: np.ndarray, is_left_P: np.ndarray, pos: np.ndarray) -> Survival:
    """Share of texts that a policy still writes after `pos` tokens (Kaplan and Meier 1958).

    `kept_P` counts the tokens up to the one at which the policy leaves (`is_left_P`). Otherwise the text
    is censored there: it ends, or it is not proven whether the policy writes its next token. 95 %
    intervals by Greenwood's formula on the log-log scale; prompts are independent.
    """
    sample = stats.CensoredData(uncensored=kept_P[is_left_P], right=kept_P[~is_left_P])
    curve = stats.ecdf(sample).sf
    at_risk = (kept_P[:, None] > pos).sum(axis=0)
    if not is_left_P.any():  # never left: no spread to speak of
        unknown = np.full(len(pos), np.nan)
        return Survival(at_risk, np.ones(len(pos)), unknown, unknown)
    with warnings.catch_warnings():  # log(-log 1) where nobody has left yet, log 0 where all have
        warnings.simplefilter("ignore", RuntimeWarning)
        band = curve.confidence_interval(confidence_level=0.95, method="log-log")
    return Survival(at_risk, *(step.evaluate(pos) for step in (curve, band.low, band.high)))


def estimate_rows(
    estimated: pl.DataFrame,
    written: pl.DataFrame,
    policies: Mapping[str, Policy],
    fixed: FixedCounts,
    *,
    seed: int,
) -> Iterator[dict]:
    """Rows of OFF_POLICY_ESTIMATES, without their pair, from counts along dumped and written texts.

    A policy whose call ratio is fixed has none: there is nothing to estimate.
    """
    both = estimated.join(written, on=["policy", "prompt_id"], suffix="_exact", validate="1:1")
    for (name,), rows in both.sort("policy", "prompt_id").group_by("policy", maintain_order=True):
        if "calls" in fixed[name]:
            continue
        for quantity, column in {"call_ratio": "calls", "intervention_ratio": "interventions"}.items():
            yield name_policy(policies[name]) | {"quantity": quantity} | _estimate_columns(rows, column, seed)


def _estimate_columns(rows: pl.DataFrame, column: str, seed: int) -> dict:
    """The ratio of a count off-policy, on-policy, and their difference on the same prompts."""
    names = (column, "tokens", f"{column}_exact", "tokens_exact")
    counts_P4 = rows.select(names).to_numpy().astype(np.float64)
    estimate = intervals.ratio(counts_P4[:, 0], counts_P4[:, 1], seed=seed)
    exact = intervals.ratio(counts_P4[:, 2], counts_P4[:, 3], seed=seed)
    difference = intervals.bca(ratio_difference, counts_P4, seed=seed, limits=(-1.0, 1.0))
    return (
        interval_columns(estimate, "off_policy")
        | interval_columns(exact, "on_policy_value")
        | interval_columns(difference, "difference")
    )


def ratio_difference(sums_X: np.ndarray) -> np.ndarray:
    """Difference of two ratios, of the counts in the first two and in the last two columns."""
    return sums_X[..., 0] / sums_X[..., 1] - sums_X[..., 2] / sums_X[..., 3]


def survival_rows(kept: pl.DataFrame, policies: Mapping[str, Policy]) -> Iterator[dict]:
    """Rows of SURVIVAL but their pair; `kept` holds policy, kept (tokens) and is_left of every text."""
    pos = np.unique(np.linspace(0, kept["kept"].max(), 41).round().astype(np.int64))
    for (name,), rows in kept.group_by("policy", maintain_order=True):
        curve = kaplan_meier(rows["kept"].to_numpy(), rows["is_left"].to_numpy(), pos)
        columns = {
            "pos": pos,
            "at_risk": curve.at_risk,
            "survival": curve.share,
            "survival_low": curve.low,
            "survival_high": curve.high,
        }
        for row in pl.DataFrame(columns).fill_nan(None).iter_rows(named=True):
            yield name_policy(policies[name]) | row
