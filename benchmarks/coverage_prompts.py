"""How often intervals over prompts hold the truth, in simulated worlds where the truth is known.

python benchmarks/coverage_prompts.py
"""

import json
from collections.abc import Callable, Iterator

import numpy as np

from fsgen.analysis import intervals
from fsgen.analysis.comparison import frontiers, off_policy
from fsgen.analysis.intervals import Interval

SIZES = (32, 100, 500)  # prompts
NOMINAL = 0.95
LEFT_BY = 12  # tokens, at which survival is looked at


def share(rng, prompts: int) -> tuple[Interval, float]:
    """Accuracy 0.6 by Wilson's interval."""
    return intervals.wilson(int(rng.binomial(prompts, 0.6)), prompts), 0.6


def texts(rng, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of texts, and rates of events in them that differ from prompt to prompt around 0.15."""
    return rng.integers(20, 120, prompts), rng.beta(3, 17, prompts)


def ratio(rng, prompts: int) -> tuple[Interval, float]:
    """Share of tokens with an event, by BCa over prompts."""
    tokens_P, rate_P = texts(rng, prompts)
    return intervals.ratio(rng.binomial(tokens_P, rate_P), tokens_P, seed=1), 0.15


def ratio_difference(rng, prompts: int) -> tuple[Interval, float]:
    """Difference of two such shares on the same prompts."""
    tokens_P, rate_P = texts(rng, prompts)
    more_P = rng.binomial(tokens_P, rate_P + 0.05)
    counts_P4 = np.column_stack([more_P, tokens_P, rng.binomial(tokens_P, rate_P), tokens_P]).astype(float)
    return intervals.bca(off_policy.ratio_difference, counts_P4, seed=1, limits=(-1.0, 1.0)), 0.05


def verdict_difference(rng, prompts: int) -> tuple[Interval, float]:
    """Difference of two accuracies on the same prompts, 0.7 and 0.6, by BCa."""
    luck_P, other_P = rng.random((2, prompts))
    is_shared_P = rng.random(prompts) < 0.7  # most prompts are easy or hard for both
    one_P, two_P = luck_P < 0.7, np.where(is_shared_P, luck_P, other_P) < 0.6
    return intervals.mean_difference(one_P, two_P, seed=1), 0.1


def frontier_difference(rng, prompts: int) -> tuple[Interval, float]:
    """Difference of two frontiers at a call ratio between their policies, on the same prompts."""
    tokens_P, _ = texts(rng, prompts)
    luck_P = rng.random(prompts)
    policies = {"a10": (0.08, 0.5), "a30": (0.28, 0.8), "b10": (0.1, 0.4), "b30": (0.32, 0.6)}
    calls_PA = np.column_stack([rng.binomial(tokens_P, ratio) for ratio, _ in policies.values()])
    right_PA = np.column_stack([luck_P < accuracy for _, accuracy in policies.values()])
    counts = frontiers.PolicyCounts([*policies], np.tile(tokens_P[:, None], 4), calls_PA, right_PA)
    curves = {"a": ["a10", "a30"], "b": ["b10", "b30"]}
    result = frontiers.compare_routers(counts, curves, [0.2], seed=1)[0].accuracy_difference
    return result, (0.5 + 0.3 * 0.12 / 0.2) - (0.4 + 0.2 * 0.1 / 0.22)


def survival(rng, prompts: int) -> tuple[Interval, float]:
    """Share of texts still written after some tokens: Kaplan and Meier, Greenwood's log-log interval."""
    leaves_P, ends_P = rng.geometric(0.06, prompts), rng.integers(5, 60, prompts)
    kept_P = np.minimum(leaves_P, ends_P)
    result = off_policy.kaplan_meier(kept_P, leaves_P <= ends_P, np.array([LEFT_BY]))
    return Interval(result.share[0], result.low[0], result.high[0]), 0.94**LEFT_BY


KINDS: dict[str, Callable] = {
    "accuracy (Wilson)": share,
    "ratio over prompts (BCa)": ratio,
    "difference of ratios (BCa, paired)": ratio_difference,
    "difference of accuracies (BCa, paired)": verdict_difference,
    "difference of frontiers (BCa, paired)": frontier_difference,
    "survival (Kaplan-Meier, log-log)": survival,
}


def measure(replicates: int, seed: int) -> Iterator[dict]:
    """Share of simulated samples whose interval holds the truth, for every kind and number of prompts."""
    for kind, draw in KINDS.items():
        for size in SIZES:
            rng = np.random.default_rng([seed, size])
            drawn = (draw(rng, size) for _ in range(replicates))
            held = np.mean([result.low <= truth <= result.high for result, truth in drawn])
            about = {"kind": kind, "size": size, "unit": "prompts", "nominal": NOMINAL}
            yield about | {"measured": round(float(held), 4), "replicates": replicates}


if __name__ == "__main__":
    for row in measure(2000, seed=7):
        print(json.dumps(row))
