"""Routers: from what is known of a position to a decision whether to call the large model.

Shape legend: N positions.
Most routers compare a score of the default model's record with a threshold; budgets (target call ratios)
become thresholds on calibration prompts, see `fsgen.collaboration.calibration`.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fsgen.collaboration.router_input import RouterInput

RECORD = "record"  # of the model that would decide: its top logits, logsumexp and entropy
FUSED_TOKEN = "fused_token"  # which only the large model tells, so a router that needs it is a reference


def max_probability(record: RouterInput) -> np.ndarray:
    """Probability of the most likely token (FS-GEN's `threshold`, which calls below 0.5)."""
    return record.probability_NK[:, 0]


def margin(record: RouterInput) -> np.ndarray:
    """p1 - p2. FS-GEN's `delta_threshold` compares half of it with 0.2: a margin of 0.4 in truth."""
    return record.probability_NK[:, 0] - record.probability_NK[:, 1]


def entropy(record: RouterInput) -> np.ndarray:
    """Entropy of the full-vocabulary distribution, nats."""
    return record.entropy_N.astype(np.float64)


class Router(NamedTuple):
    """A rule by which the large model is called, and what other code needs to know about it.

    With a `score` it calls on one side of a threshold. Without one it calls always or never (`calls`), or at
    random with a rate, which takes the place of the threshold.
    """

    needs: frozenset[str] = frozenset({RECORD})
    """What of a position it looks at: RECORD, FUSED_TOKEN."""
    score: Callable[..., np.ndarray] | None = None
    """From a RouterInput, and the fitted weights by name, to scores [N]."""
    calls_below: bool = False
    """Whether a low score is what calls."""
    fit: Callable[..., Any] | None = None
    """From a TrainingSet and a seed to a FittedRouter, for a router that learns."""
    calls: bool | None = None
    """What it decides everywhere, if that is one thing."""
    fixed_counts: tuple[str, ...] = ()
    """Counts of a policy that it fixes; their ratios have no sampling error and no interval."""
    default_threshold: float | None = None
    """The threshold that the paper uses."""
    default_rate: float | None = None
    """The rate of a policy that names no budget."""

    @property
    def is_constant(self) -> bool:
        """Whether it calls always or never, and so takes no budget."""
        return self.calls is not None

    @property
    def needs_threshold(self) -> bool:
        """Whether a policy must name a budget, or params.yaml a threshold."""
        return not self.is_constant and self.default_rate is None

    def decide(
        self,
        threshold: float | None,
        score_N: np.ndarray | None,
        uniform_N: np.ndarray,
        mismatch_N: np.ndarray,
    ) -> np.ndarray:
        """Whether the large model is called, bool [N].

        `uniform_N` are the positions' own uniform draws, see `position_uniforms`; `mismatch_N` says where the
        fused token differs from the default one, and is read only by a router that needs FUSED_TOKEN.
        """
        if self.calls is not None:
            return np.full(len(mismatch_N), self.calls)
        if score_N is not None:
            return score_N < threshold if self.calls_below else score_N > threshold
        drawn_N = uniform_N < (self.default_rate if threshold is None else threshold)
        return mismatch_N & drawn_N if FUSED_TOKEN in self.needs else drawn_N


ALWAYS = Router(needs=frozenset(), calls=True, fixed_counts=("calls",))
NEVER = Router(
    needs=frozenset(), calls=False, fixed_counts=("calls", "interventions", "large_tokens_processed")
)
MAX_PROBABILITY = Router(score=max_probability, calls_below=True, default_threshold=0.5)
MARGIN = Router(score=margin, calls_below=True, default_threshold=0.4)
ENTROPY = Router(score=entropy)
# References: chance, and one that knows where the two models differ.
RANDOM = Router(needs=frozenset())
PERFECT = Router(needs=frozenset({FUSED_TOKEN}), default_rate=1.0)


def position_uniforms(seed: int, prompt_ids: np.ndarray, pos_N: np.ndarray) -> np.ndarray:
    """Uniform draws in [0, 1) that depend on seed, prompt and position alone, [N].

    So all policies agree where `random` calls. `prompt_ids` are the rows' prompt ids.
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
