"""How often intervals of rankings and of clustered regressions hold the truth, in a simulated world.

python benchmarks/coverage_ranking.py
"""

import json
from collections.abc import Iterator
from functools import cache

import numpy as np

from fsgen.analysis.uncertainty import discrimination, positions

SIZES = (32, 100, 500)  # prompts
NOMINAL = 0.95
TOKENS = 40  # of a prompt
SLOPE, PLACE = 1.2, -0.3  # of the log odds of a mismatch in entropy and in log2 position
TOP = discrimination.SHARES.index(0.1)


def world(rng, prompts: int) -> tuple[np.ndarray, ...]:
    """Entropy, log position, mismatch and prompt of tokens; prompts differ in how hard they are."""
    prompt_N = np.repeat(np.arange(prompts), TOKENS)
    entropy_N = rng.exponential(0.6, len(prompt_N)) * rng.gamma(4, 0.25, prompts)[prompt_N]
    place_N = np.log2(1 + np.tile(np.arange(TOKENS), prompts))
    odds_N = -2 + SLOPE * entropy_N + PLACE * place_N + rng.normal(0, 0.5, prompts)[prompt_N]
    return entropy_N, place_N, rng.random(len(prompt_N)) < 1 / (1 + np.exp(-odds_N)), prompt_N


@cache
def truth() -> dict[str, float]:
    """The world's own figures, by a very large sample."""
    entropy_N, place_N, mismatch_N, prompt_N = world(np.random.default_rng(0), 100_000)
    levels_N = np.argsort(np.argsort(entropy_N))
    found_Q = discrimination.measure(discrimination.count(levels_N, mismatch_N, np.zeros(len(levels_N)))[0])
    terms = {"place": place_N, "entropy": entropy_N}
    # regression without the prompts' own hardness tells of all prompts together, not of one
    position, entropy = positions.effects(terms, mismatch_N, prompt_N)
    ratios = {"place": position.odds_ratio.value, "entropy": entropy.odds_ratio.value}
    return {"auroc": found_Q[0], "average_precision": found_Q[1], "top": found_Q[2 + TOP]} | ratios


def measure(replicates: int, seed: int) -> Iterator[dict]:
    """Share of simulated samples whose interval holds the truth, for every kind and number of prompts."""
    names = {
        "auroc": "AUROC (BCa)",
        "average_precision": "average precision (BCa)",
        "top": "mismatches in the 10 % most doubtful tokens (BCa)",
        "place": "odds ratio of position (clustered, t)",
        "entropy": "odds ratio of entropy (clustered, t)",
    }
    for size in SIZES:
        held = dict.fromkeys(names, 0)
        for i in range(replicates):
            entropy_N, place_N, mismatch_N, prompt_N = world(np.random.default_rng([seed, size, i]), size)
            ranked = discrimination.rank(entropy_N, mismatch_N, prompt_N, seed=1)
            position, entropy = positions.effects({"p": place_N, "e": entropy_N}, mismatch_N, prompt_N)
            result = {"auroc": ranked.auroc, "average_precision": ranked.average_precision}
            result |= {"top": ranked.lorenz[TOP], "place": position.odds_ratio, "entropy": entropy.odds_ratio}
            for name, interval in result.items():
                held[name] += interval.low <= truth()[name] <= interval.high
        for name, kind in names.items():
            about = {"kind": kind, "size": size, "unit": "prompts", "nominal": NOMINAL}
            yield about | {"measured": round(held[name] / replicates, 4), "replicates": replicates}


if __name__ == "__main__":
    for row in measure(500, seed=7):
        print(json.dumps(row))
