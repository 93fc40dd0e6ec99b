"""What accuracy a call ratio buys: frontiers of routers, and routers against each other at equal budget.

Shape legend: P prompts, B replicates, A policies (columns of a table of counts), G budgets, R routers.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.analysis import intervals
from fsgen.analysis.evaluate import CONSTANT_COUNTS
from fsgen.analysis.intervals import CI_COLUMNS, Interval, interval_columns
from fsgen.config.policies import Policy, name_policy
from fsgen.tables import parquet
from fsgen.tables.columns import PAIR, POLICY

AXES = {
    "call_ratio": "answer tokens at which the large model was called, a share",
    "large_positions": "positions that the large model processed, per answer token",
    "flops": "floating-point operations of all models, per prompt",
}
FRONTIER = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("budget", pa.float64(), "call ratio that it aims at; null of a policy without one"),
        ("axis", pa.string(), "; ".join(f"{name}: {about}" for name, about in AXES.items())),
        ("x", pa.float64(), "what it came to on test prompts"),
        ("x_low", pa.float64(), "lower end of its 95 % interval over prompts; null where they bound none"),
        ("x_high", pa.float64(), "upper end; null where they bound none"),
        ("accuracy", pa.float64(), "share of test prompts answered right"),
        *CI_COLUMNS,
        ("prompts", pa.int64(), "test prompts"),
    ]
)
ROUTER_COMPARISONS = parquet.schema(
    [
        PAIR,
        ("method", pa.string(), "method of both"),
        ("router", pa.string(), "router"),
        ("rival", pa.string(), "the other router"),
        ("budget", pa.float64(), "achieved call ratio at which both are compared, between their policies"),
        ("difference", pa.float64(), "accuracy of router less that of rival, on the same prompts"),
        *CI_COLUMNS,
        ("probability", pa.float64(), "share of resampled prompt sets on which router wins, ties half"),
    ]
)


class Counts(NamedTuple):
    """Counts per test prompt of the policies of one pair, policies in the order of `names`."""

    names: list[str]
    tokens_PA: np.ndarray
    calls_PA: np.ndarray
    right_PA: np.ndarray

    @classmethod
    def of(cls, policies: pl.DataFrame) -> "Counts":
        """From rows of counts, one a policy and prompt, of which every policy has the same."""
        rows = policies.with_columns(right=pl.col("verdict") == "right").sort("policy", "prompt_id")
        names = rows["policy"].unique(maintain_order=True).to_list()
        columns = (rows[name].to_numpy().reshape(len(names), -1).T for name in ("tokens", "calls", "right"))
        return cls(names, *(column.astype(np.float64) for column in columns))


class RouterComparison(NamedTuple):
    """Two routers at the same call ratio: accuracy of the first less that of the second."""

    router: str
    rival: str
    budget: float
    difference: Interval
    probability: float
    """Share of bootstrap samples of the prompts in which the first is better, ties counted half."""


def frontier_rows(policies: pl.DataFrame, known: Mapping[str, Policy], *, seed: int) -> Iterator[dict]:
    """Rows of FRONTIER but their pair: what each policy called and cost, and what it got right for it.

    `policies` are the counts per test prompt of one pair; accuracy is null where a judge rates.
    """
    for (name,), rows in policies.group_by("policy", maintain_order=True):
        policy = known[name]
        right = {"accuracy": None, "low": None, "high": None}
        if rows["verdict"].null_count() == 0:
            right = interval_columns(
                intervals.wilson(int((rows["verdict"] == "right").sum()), len(rows)), "accuracy"
            )
        about = name_policy(policy) | {"budget": policy.budget, "prompts": len(rows)} | right
        for axis, found in _spent(rows, policy, seed).items():
            yield about | {"axis": axis} | interval_columns(found, "x", "x_low", "x_high")


def _spent(rows: pl.DataFrame, policy: Policy, seed: int) -> dict[str, Interval]:
    """The axes of a policy with their intervals; what its router fixes on any prompt is its own interval."""
    tokens_P = rows["tokens"].to_numpy()
    columns = {
        "call_ratio": ("calls", tokens_P),
        "large_positions": ("large_positions", tokens_P),
        "flops": ("flops", np.ones_like(tokens_P)),
    }
    found = {}
    for axis, (column, per_P) in columns.items():
        found[axis] = intervals.ratio(rows[column].to_numpy(), per_P, seed=seed)
        if column in CONSTANT_COUNTS.get(policy.router, ()):
            found[axis] = Interval(*[found[axis].value] * 3)
    return found


def router_comparison_rows(
    policies: pl.DataFrame, known: Mapping[str, Policy], *, seed: int
) -> Iterator[dict]:
    """Rows of DUELS but their pair, for every method with budgets; none where a judge rates.

    A frontier goes from `never`, where there is one, through a router's budgets to `always`.
    """
    if policies["verdict"].null_count() == 0:
        counts = Counts.of(policies)
        mine = [known[name] for name in counts.names]
        for method in sorted({policy.method for policy in mine if policy.budget is not None}):
            ends = [p.name for p in mine if p.method == method and p.router in ("never", "always")]
            aimed = [p for p in mine if p.method == method and p.budget is not None]
            routers = sorted({policy.router for policy in aimed})
            curves = {router: ends + [p.name for p in aimed if p.router == router] for router in routers}
            budgets = sorted({policy.budget for policy in aimed})
            for duel in compare_routers(counts, curves, budgets, seed=seed):
                about = {"method": method, "router": duel.router, "rival": duel.rival}
                about |= {"budget": duel.budget, "probability": duel.probability}
                yield about | interval_columns(duel.difference, "difference")


def compare_routers(
    counts: Counts,
    curves: Mapping[str, list[str]],
    budgets: list[float],
    *,
    seed: int,
    replicates: int = 2000,
) -> list[RouterComparison]:
    """Every router against every other at each budget, both ways, on the same resampled prompts.

    `curves` maps a router to the policies on its frontier. At a budget (a call ratio, achieved, not
    aimed at) the accuracy is that on the straight line between the two policies around it: calling
    by a coin which of them answers a prompt. A budget beyond a frontier's ends has no duel.
    """
    sums_PX = np.concatenate([counts.tokens_PA, counts.calls_PA, counts.right_PA], axis=1)
    sums_PX = np.column_stack([sums_PX, np.ones(len(sums_PX))])
    total_X = sums_PX.sum(axis=0)

    def heights(sums: np.ndarray) -> np.ndarray:
        return np.stack(
            [_accuracies_at(sums, counts.names, own, budgets) for own in curves.values()], axis=-2
        )

    value_RG = heights(total_X)
    with np.errstate(invalid="ignore"):  # without an only prompt nothing is left
        jackknife_PRG = heights(total_X - sums_PX)
    value_BRG = np.concatenate([heights(sums) for sums in intervals.resampled(sums_PX, seed, replicates)])
    found = []
    for (i, router), (j, rival) in combinations(enumerate(curves), 2):
        for g, budget in enumerate(budgets):
            value = value_RG[i, g] - value_RG[j, g]
            if np.isnan(value):
                continue
            value_B = value_BRG[:, i, g] - value_BRG[:, j, g]
            left_out_P = jackknife_PRG[:, i, g] - jackknife_PRG[:, j, g]
            difference = intervals.accelerated(value, value_B, left_out_P, limits=(-1.0, 1.0))
            value_B = value_B[np.isfinite(value_B)]
            wins = ((value_B > 0).mean() + (value_B >= 0).mean()) / 2
            found.append(RouterComparison(router, rival, budget, difference, float(wins)))
            turned = Interval(-difference.value, -difference.high, -difference.low)
            found.append(RouterComparison(rival, router, budget, turned, float(1 - wins)))
    return found


def _accuracies_at(sums: np.ndarray, names: list[str], own: list[str], budgets: list[float]) -> np.ndarray:
    """Accuracy of one frontier at the budgets, [..., G]; nan beyond its ends."""
    policies = len(names)
    columns = np.array([names.index(name) for name in own])
    x = sums[..., policies + columns] / sums[..., columns]
    y = sums[..., 2 * policies + columns] / sums[..., -1:]
    order = np.argsort(x, axis=-1, kind="stable")
    return _between(np.take_along_axis(x, order, -1), np.take_along_axis(y, order, -1), budgets)


def _between(x: np.ndarray, y: np.ndarray, at: list[float]) -> np.ndarray:
    """y on straight lines between the points (x, y), x rising along the last axis, at each of `at`."""
    heights = []
    for place in at:
        after = np.clip((x < place).sum(axis=-1), 1, x.shape[-1] - 1)[..., None]
        x0, x1 = (np.take_along_axis(x, after - back, -1)[..., 0] for back in (1, 0))
        y0, y1 = (np.take_along_axis(y, after - back, -1)[..., 0] for back in (1, 0))
        share = np.divide(place - x0, x1 - x0, out=np.zeros_like(x0), where=x1 > x0)
        is_inside = (x[..., 0] <= place) & (place <= x[..., -1])
        heights.append(np.where(is_inside, y0 + share * (y1 - y0), np.nan))
    return np.stack(heights, axis=-1)
