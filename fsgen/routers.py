"""Routers: from the record of the model that would speak to a decision whether to call the large one.

Shape legend: N positions. A router is a score and the side of a threshold on which it calls; budgets
(target call ratios) become thresholds on calibration prompts.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fsgen.policies import Policy
from fsgen.settings import Settings
from fsgen.typed import Complaint


class Speaker(NamedTuple):
    """What a router sees: the record of the model that would speak, logits and entropy in nats."""

    max_logit_N: np.ndarray
    second_logit_N: np.ndarray
    logsumexp_N: np.ndarray
    entropy_N: np.ndarray


def max_probability(seen: Speaker) -> np.ndarray:
    """Probability of the most likely token (FS-GEN's `threshold`, which calls below 0.5)."""
    return np.exp(seen.max_logit_N.astype(np.float64) - seen.logsumexp_N)


def margin(seen: Speaker) -> np.ndarray:
    """p1 - p2. FS-GEN's `delta_threshold` compares half of it with 0.2: a margin of 0.4 in truth."""
    return max_probability(seen) - np.exp(seen.second_logit_N.astype(np.float64) - seen.logsumexp_N)


def entropy(seen: Speaker) -> np.ndarray:
    """Entropy of the full-vocabulary distribution, nats."""
    return seen.entropy_N.astype(np.float64)


class Router(NamedTuple):
    score: Callable[[Speaker], np.ndarray]
    calls_below: bool
    """Whether a low score is what asks for help."""


ROUTERS = {
    "threshold": Router(max_probability, calls_below=True),
    "margin": Router(margin, calls_below=True),
    "entropy": Router(entropy, calls_below=False),
}


class Gate(NamedTuple):
    """A router made ready for one policy: its rule and the number it compares with."""

    rule: str
    cut: float | None = None
    """Threshold of a scored router, or the chance of `random` and `perfect`."""


def ready(settings: Settings, policy: Policy, calibrated: dict[str, float]) -> Gate:
    """The gate of a policy; `calibrated` maps policy names to what `fsgen.simulation` found for them."""
    router = settings.routers.get(policy.router)
    rule = router.rule if router else policy.router  # +always exists for every method, named or not
    if policy.budget is None:
        return Gate(rule, router.at if router else None)
    if policy.name not in calibrated:
        raise Complaint(f"Policy '{policy.name}' has no calibrated threshold; rerun the stage 'route'.")
    return Gate(rule, calibrated[policy.name])


def calls(gate: Gate, seen: Speaker, chance_N: np.ndarray, mismatch_N: np.ndarray) -> np.ndarray:
    """Whether the large model is called, bool [N].

    `random` and `perfect` are references: the first compares the position's own uniform draw
    `chance_N` with its rate, the second, at mismatches alone, with min(1, budget / CoF).
    """
    if gate.rule in ROUTERS:
        router = ROUTERS[gate.rule]
        score_N = router.score(seen)
        return score_N < gate.cut if router.calls_below else score_N > gate.cut
    if gate.rule == "random":
        return chance_N < gate.cut
    if gate.rule == "perfect":
        return mismatch_N & (chance_N < (1.0 if gate.cut is None else gate.cut))
    return np.full(len(mismatch_N), gate.rule == "always")


def calibrate(rule: str, seen: Speaker, budget: float) -> float:
    """The threshold that calls the share `budget` of these positions, or as near as ties allow.

    It lies midway between two neighbouring scores, so no position sits on it.
    """
    router = ROUTERS[rule]
    ranked = np.sort(router.score(seen))
    ranked = ranked if router.calls_below else ranked[::-1]
    if not len(ranked):
        raise Complaint("No calibration position to set a threshold on; raise 'limit' of the dataset.")
    count = round(budget * len(ranked))
    edges = np.flatnonzero(np.diff(ranked)) + 1  # number called if the threshold is put there
    edges = np.concatenate([[0], edges, [len(ranked)]])
    count = edges[np.abs(edges - count).argmin()]
    inner, outer = _neighbours(ranked, count, router.calls_below)
    return float((inner + outer) / 2)


def _neighbours(ranked: np.ndarray, count: int, calls_below: bool) -> tuple[float, float]:
    """Scores on both sides of a cut after `count`; beyond the ends, a unit further out."""
    outward = 1.0 if calls_below else -1.0
    last_called = ranked[count - 1] if count else ranked[0] - 2 * outward
    first_spared = ranked[count] if count < len(ranked) else ranked[-1] + 2 * outward
    return last_called, first_spared


def chance(seed: int, prompt_ids: np.ndarray, pos_N: np.ndarray) -> np.ndarray:
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
