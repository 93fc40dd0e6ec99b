"""The rules that fuse a large and a small model's logits, and the proof that a stored list suffices.

Shape legend: N positions, K ids of a padded list (-1 where it has ended), V usable vocabulary.
l, s, f are the large, small and tuned model's logits, [.., K] or [.., V], as numpy arrays or torch
tensors: rules use arithmetic alone, so dumps and rollouts run the very same line. Both give
them float64, in which the two libraries agree to the bit.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fsgen.config.policies import Method
from fsgen.config.roles import LARGE


def oracle(l, s, f):
    """The large model alone (FS-GEN's oracle, arXiv 2406.12295; greedy speculative decoding)."""
    return l


def li2022(l, s, f, *, alpha, tau):
    """Contrastive decoding: log p_expert - log p_amateur at temperature tau (arXiv 2210.15097, eq. 2)."""
    return l - s / tau


def obrien2023(l, s, f, *, alpha, beta):
    """Contrastive decoding in logits: (1 + beta) l - beta s (arXiv 2309.09117, eq. 1)."""
    return (1 + beta) * l - beta * s


def average(l, s, f, *, alpha, beta):
    """s + beta (l - s), what FS-GEN's code computes under the name of contrastive decoding."""
    return s + beta * (l - s)


def proxy(l, s, f, *, alpha):
    """Emulated fine-tuning, proxy tuning: l + alpha (f - s) (arXiv 2310.12962, 2401.08565)."""
    return l + alpha * (f - s)


class Parameter(NamedTuple):
    """A number that a method may set."""

    default: float
    allows: Callable[[float], bool] = math.isfinite
    range: str = "be finite"
    """What it should do, as in "lie in (0, 1]"."""
    reason: str = "it is a weight"


class Rule(NamedTuple):
    """A way to fuse logits, and what other code needs to know about it."""

    score: Callable
    """The fused score, from l, s, f and the parameters."""
    parameters: Mapping[str, Parameter] = {}
    """What a method of this rule may set."""
    masked: bool = False
    """Whether only ids of at least alpha times the large model's top probability may win."""
    default_role: str = "small"
    """The model that decides where the large one is not called."""
    inputs: tuple[str, ...] = ("large", "small")
    """The models whose logits the score depends on."""
    drafts: bool = False
    """Whether the small model drafts tokens that the large one verifies; such a rule takes no router."""
    proof: Callable | None = None
    """Whether no id outside the stored lists can win, for a rule that is neither masked nor `large` alone."""

    @property
    def requires(self) -> frozenset[str]:
        """Roles of all models that a policy of this rule runs."""
        return frozenset({self.default_role, *self.inputs})

    @property
    def fused_along(self) -> frozenset[str]:
        """Roles of the models along whose dumped texts a method of this rule is fused."""
        return frozenset({LARGE} if self.drafts else {LARGE, self.default_role})

    @property
    def follows_large(self) -> bool:
        """Whether a policy that always calls writes the large model's own text, which the dump holds."""
        return self.inputs == (LARGE,)


def _gain_proof(
    parameters: Mapping[str, float], lists: "TopLists", max_N: np.ndarray, best_N: np.ndarray
) -> np.ndarray:
    """Whether l + alpha (f - s) of every id outside the list stays below the best inside it, [N]."""
    # f - s was rounded to float32: the next number up bounds what it was
    gain_N = np.nextafter(lists.max_tuned_minus_small_outside_N, np.float32(np.inf)).astype(np.float64)
    return best_N > lists.outside_N.astype(np.float64) + parameters["alpha"] * gain_N


_SHARE = Parameter(0.1, lambda x: 0 < x <= 1, "lie in (0, 1]", "it is a share of the top probability")
_TEMPERATURE = Parameter(0.5, lambda x: x > 0, "be above 0", "it is a temperature")
_STRENGTH = Parameter(1.0, lambda x: x >= 0, "be at least 0", "proxy adds, it does not take")

ORACLE = Rule(oracle, inputs=("large",))
SPECULATIVE = Rule(oracle, inputs=("large",), drafts=True)
LI2022 = Rule(li2022, {"alpha": _SHARE, "tau": _TEMPERATURE}, masked=True)
OBRIEN2023 = Rule(obrien2023, {"alpha": _SHARE, "beta": Parameter(0.5)}, masked=True)
AVERAGE = Rule(average, {"alpha": _SHARE, "beta": Parameter(0.5)}, masked=True)
PROXY = Rule(
    proxy,
    {"alpha": _STRENGTH},
    default_role="tuned",
    inputs=("large", "small", "tuned"),
    proof=_gain_proof,
)


def score(method: Method, l, s, f):
    """The fused score before masking, in the shape of l."""
    return method.definition.score(l, s, f, **method.parameters)


def plausibility_mask(method: Method, l, max_N1):
    """Where the plausibility mask lets an id win: l >= max l + ln alpha (arXiv 2210.15097, eq. 3)."""
    if method.definition.masked:
        return l >= mask_threshold(method, max_N1)
    return l > -math.inf


def mask_threshold(method: Method, max_N1):
    """The least large logit with which an id may win under a masked rule."""
    return max_N1 + math.log(method.parameters["alpha"])


class TopLists(NamedTuple):
    """The large model's stored lists and the partners' logits at their ids."""

    ids_NK: np.ndarray
    large_NK: np.ndarray
    small_NK: np.ndarray
    tuned_NK: np.ndarray | None
    max_tuned_minus_small_outside_N: np.ndarray | None
    outside_N: np.ndarray
    """The large model's largest logit outside its list; -inf where the list is everything."""


class FusedTokens(NamedTuple):
    """Collaborative tokens."""

    token_N: np.ndarray
    proven_N: np.ndarray
    """Whether the stored numbers prove the token over the full vocabulary."""


def fuse(method: Method, lists: TopLists) -> FusedTokens:
    """Collaborative token c at every position, and whether the stored numbers prove it.

    A token is proven when no id outside the list can win over the full vocabulary. Masked rules: the
    best of them lies below the mask. Proxy: its l + alpha (f - s) stays below the winner's, since its
    l is at most `outside`, its f - s at most `max_tuned_minus_small_outside`.
    """
    held_NK = lists.ids_NK >= 0
    # a held id's number stays itself; the rest may hold -inf - -inf
    l, s, f = (_float64(x, held_NK) for x in (lists.large_NK, lists.small_NK, lists.tuned_NK))
    may_win_NK = held_NK & plausibility_mask(method, l, l[:, :1])
    scores_NK = np.where(may_win_NK, score(method, l, s, f), -np.inf)
    best_N1 = scores_NK.max(axis=1, keepdims=True)
    tied_NK = scores_NK == best_N1
    fused_N = np.where(tied_NK, lists.ids_NK, np.iinfo(np.int32).max).min(axis=1)
    return FusedTokens(fused_N, _is_proven(method, lists, l[:, 0], best_N1[:, 0]))


def _float64(values_NK: np.ndarray | None, held_NK: np.ndarray) -> np.ndarray | None:
    return None if values_NK is None else np.where(held_NK, values_NK, 0.0).astype(np.float64)


def _is_proven(method: Method, lists: TopLists, max_N: np.ndarray, best_N: np.ndarray) -> np.ndarray:
    """Whether no id outside the stored list can win, [N]; see `fuse`."""
    rule = method.definition
    if rule.masked:
        return lists.outside_N.astype(np.float64) < max_N + math.log(method.parameters["alpha"])
    if rule.proof:
        return rule.proof(method.parameters, lists, max_N, best_N)
    # the list holds the large model's top; of what another rule would choose outside it nothing is known
    return np.full(len(max_N), rule.follows_large)


def acceptance_bounds(
    lists: TopLists, large_logsumexp_N: np.ndarray, small_logsumexp_N: np.ndarray
) -> np.ndarray:
    """Bounds on the sampled acceptance rate, sum over ids of min(p, q), [N, 2] (arXiv 2211.17192, eq. 3).

    Inside the list the sum is exact; outside it is at most the smaller tail mass.
    """
    held_NK = lists.ids_NK >= 0
    large_NK, small_NK = (
        np.where(held_NK, np.exp(x.astype(np.float64) - z[:, None]), 0.0)
        for x, z in ((lists.large_NK, large_logsumexp_N), (lists.small_NK, small_logsumexp_N))
    )
    inside_N = np.minimum(large_NK, small_NK).sum(axis=1)
    tail_N = np.minimum(1 - large_NK.sum(axis=1), 1 - small_NK.sum(axis=1)).clip(0)
    upper_N = inside_N + np.where(np.isneginf(lists.outside_N), 0.0, tail_N)
    return np.stack([inside_N, upper_N], axis=1).clip(0, 1).astype(np.float32)
