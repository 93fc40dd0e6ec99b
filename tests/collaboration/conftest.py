"""A slow reference implementation: one prompt at a time, a full forward pass a step, no cache, no batch."""

import functools
import math
from dataclasses import dataclass, field

import torch


@dataclass
class ReferenceText:
    """A text as the reference wrote it; `default` to `called` leave out the tokens that were given."""

    tokens: list[int] = field(default_factory=list)
    from_template: list[bool] = field(default_factory=list)
    default: list[int] = field(default_factory=list)
    fused: list[int] = field(default_factory=list)
    called: list[bool] = field(default_factory=list)


def next_logits(loaded, ids: list[int]) -> torch.Tensor:
    """Float32 logits of the usable vocabulary after `ids`, by a full pass over them."""
    return _next_logits(loaded.name, loaded.network, loaded.vocabulary, tuple(ids))


@functools.cache  # policies share prefixes; each is computed once
def _next_logits(name: str, network, vocabulary: int, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        return network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1, :vocabulary].float()


def lowest_argmax(values: list[float]) -> int:
    return values.index(max(values))


def fuse(rule: str, p: dict, large, small, tuned) -> int:
    """The fused token, id by id in plain Python floats (double precision)."""
    l, s = large.tolist(), small.tolist()
    f = tuned.tolist() if tuned is not None else None
    floor = max(l) + math.log(p["alpha"]) if rule in ("li2022", "obrien2023", "average") else -math.inf
    scores = []
    for i in range(len(l)):
        if l[i] < floor:
            scores.append(-math.inf)
        elif rule in ("oracle", "speculative"):
            scores.append(l[i])
        elif rule == "li2022":
            scores.append(l[i] - s[i] / p["tau"])
        elif rule == "obrien2023":
            scores.append((1 + p["beta"]) * l[i] - p["beta"] * s[i])
        elif rule == "average":
            scores.append(s[i] + p["beta"] * (l[i] - s[i]))
        elif rule == "proxy":
            scores.append(l[i] + p["alpha"] * (f[i] - s[i]))
    return lowest_argmax(scores)


def decide(router, distribution: torch.Tensor, mismatch: bool, uniform: float) -> bool:
    """Whether a calibrated router calls the large model, from the logits of the model that would write."""
    p = torch.softmax(distribution.double(), -1)
    first, second = p.topk(2).values.tolist()
    if router.rule == "max_probability":
        return first < router.threshold
    if router.rule == "margin":
        return first - second < router.threshold
    if router.rule == "entropy":
        return entropy(p) > router.threshold
    if router.rule in ("logistic", "svm"):
        return mismatch_probability(router.rule, router.weights, p) > router.threshold
    if router.rule == "random":
        return uniform < router.threshold
    if router.rule == "perfect":
        return mismatch and (router.threshold is None or uniform < router.threshold)
    return {"always": True, "never": False}[router.rule]


def entropy(p: torch.Tensor) -> float:
    """Entropy of a distribution, nats."""
    return -(p * p.log()).nan_to_num().sum().item()


def mismatch_probability(rule: str, weights: dict, p: torch.Tensor) -> float:
    """P(mismatch) of a learned router on a distribution, feature by feature."""
    mean, scale = weights["mean"].tolist(), weights["scale"].tolist()
    features = [*p.topk(len(mean) - 1).values.tolist(), entropy(p)]
    x = [(value - m) / s for value, m, s in zip(features, mean, scale, strict=True)]
    if rule == "logistic":
        line = sum(w * v for w, v in zip(weights["coefficients"].tolist(), x, strict=True))
        return 1 / (1 + math.exp(-(line + float(weights["intercept"]))))
    decision = float(weights["intercept"])
    for vector, dual in zip(weights["support"].tolist(), weights["dual"].tolist(), strict=True):
        square = sum((a - b) ** 2 for a, b in zip(x, vector, strict=True))
        decision += dual * math.exp(-float(weights["gamma"]) * square)
    return 1 / (1 + math.exp(-(float(weights["slope"]) * decision + float(weights["offset"]))))


class Conversation:
    """Turns of `limit` tokens or up to a stop id, with `bridges` given between them.

    Where a turn ends with the first token of a bridge, that token is not given again.
    """

    def __init__(self, stop_ids, limit: int, bridges: list[list[int]]):
        self.stop_ids, self.limit, self.bridges = stop_ids, limit, [*bridges]
        self.turn: list[int] = []
        self.is_over = False

    def append(self, token: int) -> list[int]:
        """Add the next token of the turn; returns the tokens that are given after it."""
        self.turn.append(token)
        if token not in self.stop_ids and len(self.turn) < self.limit:
            return []
        self.turn, self.is_over = [], not self.bridges
        if self.is_over:
            return []
        bridge = self.bridges.pop(0)
        return bridge[1:] if token == bridge[0] else bridge


def write_alone(loaded, prompt: list[int], conversation: Conversation) -> list[int]:
    """The greedy text of one model."""
    tokens: list[int] = []
    while not conversation.is_over:
        tokens.append(lowest_argmax(next_logits(loaded, prompt + tokens).tolist()))
        tokens += conversation.append(tokens[-1])
    return tokens


def write(models: dict, method, router, prompt: list[int], conversation, uniforms) -> ReferenceText:
    """The text of one policy; `uniforms[pos]` is the random draw of a position."""
    text = ReferenceText()
    while not conversation.is_over:
        logits = {role: next_logits(loaded, prompt + text.tokens) for role, loaded in models.items()}
        writer = logits["tuned"] if method.rule == "proxy" else logits["small"]
        default = lowest_argmax(writer.tolist())
        fused = fuse(method.rule, method.parameters, logits["large"], logits["small"], logits.get("tuned"))
        called = decide(router, writer, fused != default, uniforms[len(text.tokens)])
        text.default.append(default)
        text.fused.append(fused)
        text.called.append(called)
        given = conversation.append(fused if called else default)
        text.tokens += [fused if called else default, *given]
        text.from_template += [False] + [True] * len(given)
    return text


def speculate(
    small, large, prompt: list[int], draft: int, conversation: Conversation
) -> tuple[list[int], list[int]]:
    """Greedy drafting and verification of one turn; returns the text and the accepted length of every round.

    The drafter goes on past its own end tokens; what the text never reaches is not counted.
    """
    text: list[int] = []
    accepted: list[int] = []
    while True:
        drafted: list[int] = []
        while len(drafted) < draft:
            drafted.append(lowest_argmax(next_logits(small, prompt + text + drafted).tolist()))
        accepted.append(0)
        for token in [*drafted, None]:
            verified = lowest_argmax(next_logits(large, prompt + text).tolist())
            text.append(verified)
            accepted[-1] += verified == token
            if verified in conversation.stop_ids or len(text) == conversation.limit:
                return text, accepted
            if verified != token:
                break
