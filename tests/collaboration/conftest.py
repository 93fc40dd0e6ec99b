"""The slow truth: one prompt, one full forward pass per model and step, no cache, no batch, no dump."""

import functools
import math
from dataclasses import dataclass, field

import torch


@dataclass
class Told:
    """A text as the reference wrote it; what is said of its tokens leaves out those that were given."""

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    default: list[int] = field(default_factory=list)
    fused: list[int] = field(default_factory=list)
    called: list[bool] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)


def next_logits(loaded, ids: list[int]) -> torch.Tensor:
    """Float32 logits of the usable vocabulary after `ids`, by a full pass over them."""
    return _next_logits(loaded.name, loaded.network, loaded.vocabulary, tuple(ids))


@functools.cache  # policies share prefixes; the answer to one is computed once
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


def decide(gate, speaker: torch.Tensor, mismatch: bool, chance: float) -> bool:
    """Whether the router calls, from the speaker's whole distribution."""
    p = torch.softmax(speaker.double(), -1)
    first, second = p.topk(2).values.tolist()
    if gate.rule == "threshold":
        return first < gate.threshold
    if gate.rule == "margin":
        return first - second < gate.threshold
    if gate.rule == "entropy":
        return -(p * p.log()).nan_to_num().sum().item() > gate.threshold
    if gate.rule in ("logistic", "svm"):
        return chance_of_mismatch(gate.rule, gate.weights, p) > gate.threshold
    if gate.rule == "random":
        return chance < gate.threshold
    if gate.rule == "perfect":
        return mismatch and (gate.threshold is None or chance < gate.threshold)
    return {"always": True, "never": False}[gate.rule]


def chance_of_mismatch(rule: str, weights: dict, p: torch.Tensor) -> float:
    """What a learned router says of a distribution, feature by feature."""
    mean, scale = weights["mean"].tolist(), weights["scale"].tolist()
    entropy = -(p * p.log()).nan_to_num().sum().item()
    told = [*p.topk(len(mean) - 1).values.tolist(), entropy]
    x = [(value - m) / s for value, m, s in zip(told, mean, scale, strict=True)]
    if rule == "logistic":
        line = sum(w * v for w, v in zip(weights["coefficients"].tolist(), x, strict=True))
        return 1 / (1 + math.exp(-(line + float(weights["intercept"]))))
    total = float(weights["intercept"])
    for vector, dual in zip(weights["support"].tolist(), weights["dual"].tolist(), strict=True):
        square = sum((a - b) ** 2 for a, b in zip(x, vector, strict=True))
        total += dual * math.exp(-float(weights["gamma"]) * square)
    return 1 / (1 + math.exp(-(float(weights["slope"]) * total + float(weights["offset"]))))


class Talk:
    """The rule of a conversation: turns of `limit` tokens or up to a stop, with `bridges` between them.

    A turn that ends with the first token of a bridge has said that one already.
    """

    def __init__(self, stop_ids, limit: int, bridges: list[list[int]]):
        self.stop_ids, self.limit, self.bridges = stop_ids, limit, [*bridges]
        self.own: list[int] = []
        self.is_over = False

    def hear(self, token: int) -> list[int]:
        """Take the next token of the turn; the tokens given before the one after it."""
        self.own.append(token)
        if token not in self.stop_ids and len(self.own) < self.limit:
            return []
        self.own, self.is_over = [], not self.bridges
        if self.is_over:
            return []
        bridge = self.bridges.pop(0)
        return bridge[1:] if token == bridge[0] else bridge


def write_alone(loaded, prompt: list[int], talk: Talk) -> list[int]:
    """A model's own greedy text."""
    tokens: list[int] = []
    while not talk.is_over:
        tokens.append(lowest_argmax(next_logits(loaded, prompt + tokens).tolist()))
        tokens += talk.hear(tokens[-1])
    return tokens


def write(models: dict, method, gate, prompt: list[int], talk: Talk, chances) -> Told:
    """One policy's own text; `chances[pos]` is the position's uniform draw."""
    told = Told()
    while not talk.is_over:
        logits = {role: next_logits(loaded, prompt + told.tokens) for role, loaded in models.items()}
        speaker = logits["tuned"] if method.rule == "proxy" else logits["small"]
        default = lowest_argmax(speaker.tolist())
        fused = fuse(method.rule, method.parameters, logits["large"], logits["small"], logits.get("tuned"))
        called = decide(gate, speaker, fused != default, chances[len(told.tokens)])
        told.default.append(default)
        told.fused.append(fused)
        told.called.append(called)
        given = talk.hear(fused if called else default)
        told.tokens += [fused if called else default, *given]
        told.forced += [False] + [True] * len(given)
    return told


def speculate(small, large, prompt: list[int], draft: int, talk: Talk) -> tuple[list[int], list[int]]:
    """Greedy draft-and-verify of one turn; returns the text and the accepted length of every round.

    The drafter goes on past its own end tokens; what the text never reaches is not counted.
    """
    text: list[int] = []
    accepted: list[int] = []
    while True:
        drafted: list[int] = []
        while len(drafted) < draft:
            drafted.append(lowest_argmax(next_logits(small, prompt + text + drafted).tolist()))
        taken = 0
        for token in [*drafted, None]:
            said = lowest_argmax(next_logits(large, prompt + text).tolist())
            text.append(said)
            taken += said == token
            ended = said in talk.stop_ids or len(text) == talk.limit
            if said != token or ended:
                break
        accepted.append(taken)
        if ended:
            return text, accepted
