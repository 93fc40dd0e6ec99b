"""Routers: from the record of the model that would speak to a decision whether to call the large one.

Shape legend: N positions. A router is a score and the side of a threshold on which it calls; budgets
(target call ratios) become thresholds on calibration prompts.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fsgen.collaboration import learned_routers
from fsgen.collaboration.router_input import RouterInput
from fsgen.config.policies import Policy
from fsgen.config.schema import Settings
from fsgen.errors import UserError


def max_probability(seen: RouterInput) -> np.ndarray:
    """Probability of the most likely token (FS-GEN's `threshold`, which calls below 0.5)."""
    return seen.probability_NK[:, 0]


def margin(seen: RouterInput) -> np.ndarray:
    """p1 - p2. FS-GEN's `delta_threshold` compares half of it with 0.2: a margin of 0.4 in truth."""
    return seen.probability_NK[:, 0] - seen.probability_NK[:, 1]


def entropy(seen: RouterInput) -> np.ndarray:
    """Entropy of the full-vocabulary distribution, nats."""
    return seen.entropy_N.astype(np.float64)


class Router(NamedTuple):
    """A score, and the side of its threshold on which the large model is called."""

    score: Callable[..., np.ndarray]
    """From a Speaker, and the weights by name where the router has learnt any."""
    calls_below: bool
    """Whether a low score is what asks for help."""


ROUTERS = {
    "threshold": Router(max_probability, calls_below=True),
    "margin": Router(margin, calls_below=True),
    "entropy": Router(entropy, calls_below=False),
    "logistic": Router(learned_routers.logistic, calls_below=False),
    "svm": Router(learned_routers.svm, calls_below=False),
}


class CalibratedRouter(NamedTuple):
    """A router made ready for one policy: its rule, the number it compares with, what it has learnt."""

    rule: str
    cut: float | None = None
    """Threshold of a scored router, or the chance of `random` and `perfect`."""
    weights: Mapping[str, np.ndarray] = {}

    def score(self, seen: RouterInput) -> np.ndarray | None:
        """The scores that it compares with its cut, [N]; None of a router that has none."""
        return ROUTERS[self.rule].score(seen, **self.weights) if self.rule in ROUTERS else None

    def facts(self) -> list:
        """What decides its calls, as JSON can hold it."""
        digest = hashlib.sha256(b"".join(array.tobytes() for array in self.weights.values())).hexdigest()
        return [self.rule, self.cut, digest]


def calibrated_router(
    settings: Settings, policy: Policy, calibrated: Mapping[str, float], weights: Mapping[str, dict]
) -> CalibratedRouter:
    """The gate of a policy, from what `fsgen.simulation` found on calibration prompts.

    `calibrated` maps policies to thresholds, `weights` `<method>+<rule>` to what that router learnt.
    """
    router = settings.routers.get(policy.router)
    rule = router.rule if router else policy.router  # +always exists for every method, named or not
    own = {name: np.array(values) for name, values in weights.get(f"{policy.method}+{rule}", {}).items()}
    if policy.budget is None:
        return CalibratedRouter(rule, router.at if router else None, own)
    if policy.name not in calibrated:
        raise UserError(f"Policy '{policy.name}' has no calibrated threshold; rerun the stage 'route'.")
    return CalibratedRouter(rule, calibrated[policy.name], own)


def decide(
    gate: CalibratedRouter, seen: RouterInput, chance_N: np.ndarray, mismatch_N: np.ndarray
) -> np.ndarray:
    """Whether the large model is called, bool [N].

    `random` and `perfect` are references: the first compares the position's own uniform draw
    `chance_N` with its rate, the second, at mismatches alone, with min(1, budget / CoF).
    """
    if gate.rule in ROUTERS:
        score_N = gate.score(seen)
        return score_N < gate.cut if ROUTERS[gate.rule].calls_below else score_N > gate.cut
    if gate.rule == "random":
        return chance_N < gate.cut
    if gate.rule == "perfect":
        return mismatch_N & (chance_N < (1.0 if gate.cut is None else gate.cut))
    return np.full(len(mismatch_N), gate.rule == "always")


def calibrate(rule: str, score_N: np.ndarray, budget: float) -> float:
    """The threshold that calls the share `budget` of positions with these scores, as near as ties allow.

    It lies midway between two neighbouring scores, so no position sits on it.
    """
    calls_below = ROUTERS[rule].calls_below
    ranked = np.sort(score_N)
    ranked = ranked if calls_below else ranked[::-1]
    if not len(ranked):
        raise UserError("No calibration position to set a threshold on; raise 'limit' of the dataset.")
    count = round(budget * len(ranked))
    edges = np.flatnonzero(np.diff(ranked)) + 1  # number called if the threshold is put there
    edges = np.concatenate([[0], edges, [len(ranked)]])
    count = edges[np.abs(edges - count).argmin()]
    inner, outer = _neighbours(ranked, count, calls_below)
    return float((inner + outer) / 2)


def _neighbours(ranked: np.ndarray, count: int, calls_below: bool) -> tuple[float, float]:
    """Scores on both sides of a cut after `count`; beyond the ends, a unit further out."""
    outward = 1.0 if calls_below else -1.0
    last_called = ranked[count - 1] if count else ranked[0] - 2 * outward
    first_spared = ranked[count] if count < len(ranked) else ranked[-1] + 2 * outward
    return last_called, first_spared


def position_uniforms(seed: int, prompt_ids: np.ndarray, pos_N: np.ndarray) -> np.ndarray:
    """Uniform draws in [0, 1) that depend on seed, prompt and position alone, [N].

    All policies so agree where `random` calls. `prompt_ids` are the rows' prompt ids.
    """
    names, inverse_N = np.unique(prompt_ids, return_inverse=True)
    keys = [hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in names]
    key_N = np.frombuffer(b"".join(keys), dtype=np.uint64)[inverse_N]
    with np.errstate(over="ignore"):
        mixed_N = _mix(key_N + _mix(pos_N.astype(np.uint64) + np.uint64(1)))
    return (mixed_N >> np.uint64(11)) * 2.0**-53


def _mix(bits_N: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): every bit depends on every bit."""
    bits_N = bits_N * np.uint64(0x9E3779B97F4A7C15)
    bits_N = (bits_N ^ (bits_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits_N = (bits_N ^ (bits_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits_N ^ (bits_N >> np.uint64(31))
