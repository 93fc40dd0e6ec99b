"""Accuracy by call ratio: frontiers of routers, and routers compared at equal call ratio.

Shape legend: P prompts, B replicates, A policies (columns of a table of counts), G budgets, R routers,
X counts that add up over prompts.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.analysis import intervals
from fsgen.analysis.fixed_counts import FixedCounts
from fsgen.analysis.intervals import Interval, interval_columns
from fsgen.config.policies import Policy, name_policy


class PolicyCounts(NamedTuple):
    """Counts per test prompt of the policies of one pair, policies in the order of `names`."""

    names: list[str]
    tokens_PA: np.ndarray
    calls_PA: np.ndarray
    right_PA: np.ndarray

    @classmethod
    def of(cls, policies: pl.DataFrame) -> "PolicyCounts":
        """From rows of counts, one a policy and prompt, of which every policy has the same."""
        rows = policies.with_columns(right=pl.col("verdict") == "right").sort("policy", "prompt_id")
        names = rows["policy"].unique(maintain_order=True).to_list()
        columns = (rows[name].to_numpy().reshape(len(names), -1).T for name in ("tokens", "calls", "right"))
        return cls(names, *(column.astype(np.float64) for column in columns))


class RouterComparison(NamedTuple):
    """Two routers at the same call ratio: accuracy of the first less that of the second."""

    router: str
    other_router: str
    call_ratio: float
    accuracy_difference: Interval
    win_probability: float
    """Share of bootstrap samples of the prompts in which the first is better, ties counted half."""

    def reversed(self) -> "RouterComparison":
        """The second router against the first."""
        value, low, high = self.accuracy_difference
        difference = Interval(-value, -high, -low)
        return RouterComparison(
            self.other_router, self.router, self.call_ratio, difference, 1 - self.win_probability
        )


class _SampledAccuracies(NamedTuple):
    """Accuracies of all routers at all budgets; nan where a budget lies beyond a router's frontier."""

    value_RG: np.ndarray
    """On all prompts."""
    jackknife_PRG: np.ndarray
    """Without each prompt in turn."""
    replicate_BRG: np.ndarray
    """On resampled prompts."""


def frontier_rows(
    counts: pl.DataFrame, policies: Mapping[str, Policy], fixed: FixedCounts, *, seed: int
) -> Iterator[dict]:
    """Rows of FRONTIER but their pair: calls, costs and accuracy of each policy.

    `counts` are those per test prompt of one pair; accuracy is null where a judge rates.
    """
    for (name,), rows in counts.group_by("policy", maintain_order=True):
        about = name_policy(policies[name]) | {"budget": policies[name].budget, "prompts": len(rows)}
        about |= _accuracy_columns(rows)
        for axis, cost in _costs_by_axis(rows, fixed[name], seed).items():
            yield about | {"cost_axis": axis} | interval_columns(cost, "cost")


def _accuracy_columns(rows: pl.DataFrame) -> dict:
    if rows["verdict"].null_count():
        return interval_columns(None, "accuracy")
    right = int((rows["verdict"] == "right").sum())
    return interval_columns(intervals.wilson(right, len(rows)), "accuracy")


def _costs_by_axis(rows: pl.DataFrame, fixed: tuple[str, ...], seed: int) -> dict[str, Interval]:
    """A policy's cost on each of AXES; what its router fixes on any prompt is its own interval."""
    tokens_P = rows["tokens"].to_numpy()
    axes = {
        "call_ratio": ("calls", tokens_P),
        "large_tokens_processed": ("large_tokens_processed", tokens_P),
        "flops": ("flops", np.ones_like(tokens_P)),
    }
    costs = {}
    for axis, (column, denominator_P) in axes.items():
        cost = intervals.ratio(rows[column].to_numpy(), denominator_P, seed=seed)
        costs[axis] = Interval.of_constant(cost.value) if column in fixed else cost
    return costs


def router_comparison_rows(
    counts: pl.DataFrame, policies: Mapping[str, Policy], fixed: FixedCounts, *, seed: int
) -> Iterator[dict]:
    """Rows of ROUTER_COMPARISONS but their pair, for every method with budgets; none where a judge rates.

    A frontier consists of the policies that never call, those of a router's budgets, and those that always
    call.
    """
    if counts["verdict"].null_count():
        return
    by_prompt = PolicyCounts.of(counts)
    counted = [policies[name] for name in by_prompt.names]
    for method in sorted({policy.method for policy in counted if policy.budget is not None}):
        of_method = [policy for policy in counted if policy.method == method]
        budgets = sorted({policy.budget for policy in of_method if policy.budget is not None})
        for comparison in compare_routers(by_prompt, _frontiers(of_method, fixed), budgets, seed=seed):
            yield {
                "method": method,
                "router": comparison.router,
                "other_router": comparison.other_router,
                "call_ratio": comparison.call_ratio,
                "win_probability": comparison.win_probability,
                **interval_columns(comparison.accuracy_difference, "accuracy_difference"),
            }


def _frontiers(policies: list[Policy], fixed: FixedCounts) -> dict[str, list[str]]:
    """Router to the policies on its frontier: its budgets, and those whose call ratio is fixed."""
    ends = [policy.name for policy in policies if "calls" in fixed[policy.name]]
    with_budget = [policy for policy in policies if policy.budget is not None]
    return {
        router: ends + [policy.name for policy in with_budget if policy.router == router]
        for router in sorted({policy.router for policy in with_budget})
    }


def compare_routers(
    counts: PolicyCounts,
    curves: Mapping[str, list[str]],
    budgets: list[float],
    *,
    seed: int,
    replicates: int = 2000,
) -> list[RouterComparison]:
    """Every router against every other at each budget, both ways, on the same resampled prompts.

    `curves` maps a router to the policies on its frontier. At a budget (a call ratio, achieved, not
    aimed at) the accuracy is interpolated linearly between the two policies around it, as if a
    coin chose which of them answers a prompt. A budget outside a frontier has no comparison.
    """
    accuracies = _sample_accuracies(counts, curves, budgets, seed, replicates)
    comparisons = []
    for (first, router), (second, other) in combinations(enumerate(curves), 2):
        for g, budget in enumerate(budgets):
            value, jackknife_P, replicate_B = (
                values[..., first, g] - values[..., second, g] for values in accuracies
            )
            if not np.isnan(value):
                difference, probability = _difference(value, jackknife_P, replicate_B)
                comparison = RouterComparison(router, other, budget, difference, probability)
                comparisons += [comparison, comparison.reversed()]
    return comparisons


def _sample_accuracies(
    counts: PolicyCounts, curves: Mapping[str, list[str]], budgets: list[float], seed: int, replicates: int
) -> _SampledAccuracies:
    ones_P1 = np.ones((len(counts.tokens_PA), 1))
    sums_PX = np.concatenate([counts.tokens_PA, counts.calls_PA, counts.right_PA, ones_P1], axis=1)

    def accuracies(sums_X: np.ndarray) -> np.ndarray:
        frontiers = [_accuracies_at(sums_X, counts.names, names, budgets) for names in curves.values()]
        return np.stack(frontiers, axis=-2)

    total_X = sums_PX.sum(axis=0)
    with np.errstate(invalid="ignore"):  # without an only prompt nothing is left
        jackknife_PRG = accuracies(total_X - sums_PX)
    replicate_BRG = [accuracies(sums_BX) for sums_BX in intervals.resampled(sums_PX, seed, replicates)]
    return _SampledAccuracies(accuracies(total_X), jackknife_PRG, np.concatenate(replicate_BRG))


def _difference(
    value: np.ndarray, jackknife_P: np.ndarray, replicate_B: np.ndarray
) -> tuple[Interval, float]:
    """The difference of two accuracies with its interval, and the share of replicates above 0, ties half."""
    interval = intervals.accelerated(value, replicate_B, jackknife_P, limits=(-1.0, 1.0))
    replicate_B = replicate_B[np.isfinite(replicate_B)]
    return interval, float(((replicate_B > 0).mean() + (replicate_B >= 0).mean()) / 2)


def _accuracies_at(
    sums_X: np.ndarray, names: list[str], on_frontier: list[str], budgets: list[float]
) -> np.ndarray:
    """Accuracy of one frontier at the budgets, [..., G]; nan beyond its ends.

    The last axis of `sums_X` holds tokens, calls and right answers of every policy, then the prompts.
    """
    policies = len(names)
    columns = np.array([names.index(name) for name in on_frontier])
    call_ratio = sums_X[..., policies + columns] / sums_X[..., columns]
    accuracy = sums_X[..., 2 * policies + columns] / sums_X[..., -1:]
    order = np.argsort(call_ratio, axis=-1, kind="stable")
    ordered = (np.take_along_axis(values, order, -1) for values in (call_ratio, accuracy))
    return _interpolate(*ordered, budgets)


def _interpolate(x: np.ndarray, y: np.ndarray, at: list[float]) -> np.ndarray:
    """y on straight lines between the points (x, y) at each of `at`; x rises along the last axis."""
    heights = []
    for position in at:
        after = np.clip((x < position).sum(axis=-1), 1, x.shape[-1] - 1)[..., None]
        x0, x1 = (np.take_along_axis(x, after - back, -1)[..., 0] for back in (1, 0))
        y0, y1 = (np.take_along_axis(y, after - back, -1)[..., 0] for back in (1, 0))
        share = np.divide(position - x0, x1 - x0, out=np.zeros_like(x0), where=x1 > x0)
        is_inside = (x[..., 0] <= position) & (position <= x[..., -1])
        heights.append(np.where(is_inside, y0 + share * (y1 - y0), np.nan))
    return np.stack(heights, axis=-1)
