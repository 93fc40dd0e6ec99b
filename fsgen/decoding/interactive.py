"""One text written by a pair under any policy, a token at a time, for a person who looks on.

The slow twin of the closed loop: one text, no tree, the same routers, rules and endings, so in float32 the
same tokens. Shape legend: H hidden width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from fsgen.collaboration import fusion, route, routers
from fsgen.collaboration.routers import CalibratedRouter
from fsgen.config.policies import Policy, parse_policy
from fsgen.config.schema import Settings
from fsgen.decoding import lm_head, texts
from fsgen.decoding.texts import StopRule, TokenSequence
from fsgen.errors import UserError
from fsgen.models import loading, spec
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.models.loaded_model import LoadedModel
from fsgen.tables import parquet, paths


class GeneratedToken(NamedTuple):
    """A token and who chose it."""

    token: int
    default: int
    """What would have been written without the large model."""
    called: bool
    """Whether the large model was asked here; drafted tokens are all asked about."""
    entropy: float
    """Of the model that would speak, nats; nan at the token that a draft's verification adds."""

    @property
    def is_changed(self) -> bool:
        """Whether the large model's word replaced another."""
        return self.called and self.token != self.default


class PairSession(NamedTuple):
    """A pair in memory, ready to write under one policy."""

    loaded: dict[str, LoadedModel]
    policy: Policy
    gate: CalibratedRouter | None
    """None where the policy drafts."""
    settings: Settings
    until: StopRule
    prompts: pl.DataFrame
    """The dataset's prompts, whose endings and stop strings hold for other prompts too."""


@dataclass
class LargeModelUse:
    """What the large model did for one text."""

    passes: int = 0
    """Forward calls; rounds, where the policy drafts."""
    positions: int = 0
    """Generated positions that it processed, rejected drafts and catching up included.

    Drafts beyond the text's end are not counted, as in fsgen.costs; they leave the count when it ends.
    """


def open_session(settings: Settings, pair: str, policy: str, dataset: str) -> PairSession:
    """Load the models that the policy needs, and calibrate its router on the pair's dumps.

    The policy need not stand in params.yaml. Complaint where its method or router is unknown, where
    it needs a tuned model that the pair has not, or a threshold and there are no dumps to set it on.
    """
    members = settings.named("pairs", pair).members()
    settings.named("datasets", dataset)
    parsed = parse_policy(policy, settings.methods, settings.routers)
    rule = fusion.RULES[settings.methods[parsed.method].rule]
    if parsed.method not in settings.methods_of(pair):
        raise UserError(f"Policy '{policy}' needs a tuned small model, and pairs.{pair} has none; add one.")
    gate = None if parsed.draft else route.open_calibrated_router(settings, pair, dataset, parsed)
    roles = {"small"} if parsed.draft else set()
    loaded = {
        r: loading.load_model(settings, members[r])
        for r in members
        if r in {*roles, rule.speaker, *rule.inputs}
    }
    prompts = parquet.read(paths.prompts(dataset)).sort("order")
    prompts = prompts.with_columns(follow_ups=pl.lit([], dtype=prompts.schema["follow_ups"]))
    until = texts.stop_rule(loaded["large"], prompts, settings.datasets[dataset].max_new_tokens)
    return PairSession(loaded, parsed, gate, settings, until, prompts)


def known_prompt(duet: PairSession, prompt_id: str) -> pl.DataFrame:
    """A prompts table of one row: the dataset's prompt of that id; Complaint where it has none."""
    found = duet.prompts.filter(prompt_id=prompt_id)
    if not len(found):
        near = duet.prompts["prompt_id"][0]
        raise UserError(f"There is no prompt '{prompt_id}' in this dataset; name one such as '{near}'.")
    return found


def own_words(duet: PairSession, asked: str) -> pl.DataFrame:
    """A prompts table of one row that asks in these words: as they are, or as a chat's user says them."""
    messages = pl.Series([[{"role": "user", "content": asked}]], dtype=duet.prompts.schema["messages"])
    return duet.prompts.head(1).with_columns(
        prompt_id=pl.lit("asked"), plain=pl.lit(asked), messages=messages
    )


@torch.inference_mode()
def generate_tokens(duet: PairSession, asked: pl.DataFrame, tally: LargeModelUse) -> Iterator[GeneratedToken]:
    """The text's tokens as they are chosen, to its end; `asked` is a table of one prompt."""
    ids = spec.prompt_ids(duet.loaded["large"], asked, duet.until.max_new_tokens)[0]
    voice = _TextState(duet, asked["prompt_id"][0], ids, tally)
    text = TokenSequence([])
    while True:
        for spoken in voice.draft() if duet.policy.draft else [voice.decide()]:
            yield spoken
            voice.ids.append(spoken.token)
            (text,) = duet.until.advance([voice.name], [text.followed_by(spoken.token)])
            if duet.until.is_finished(voice.name, text):
                voice.settle()
                return


def generate_pieces(
    duet: PairSession, asked: pl.DataFrame, tally: LargeModelUse
) -> Iterator[tuple[str, GeneratedToken]]:
    """The tokens with the text that each adds, which may be nothing yet, where a character has several."""
    ids, said, decode = [], "", duet.loaded["large"].tokenizer.decode
    for spoken in generate_tokens(duet, asked, tally):
        ids.append(spoken.token)
        whole = decode(ids)
        piece = "" if whole.endswith("\ufffd") else whole[len(said) :]
        said += piece
        yield piece, spoken


def sum_up(spoken: list[GeneratedToken], tally: LargeModelUse) -> str:
    """Call and intervention ratio of a text, and what the large model did for it, in a sentence."""
    calls, changes = sum(s.called for s in spoken), sum(s.is_changed for s in spoken)
    return (
        f"{len(spoken)} tokens; asked about {calls} ({calls / len(spoken):.1%}), changed {changes} "
        f"({changes / len(spoken):.1%}); {tally.passes} passes of the large model over {tally.positions} "
        "positions"
    )


class _TextState:
    """The models at the end of one text."""

    def __init__(self, duet: PairSession, name: str, prompt: list[int], tally: LargeModelUse):
        self.duet, self.name, self.ids, self.given, self.tally = duet, name, list(prompt), len(prompt), tally
        self.drafted_to: list[int] = []  # how far each round's drafts went, in `ids`
        self.known = len(prompt) - 1  # the prompt's last token is the input of the first generated position
        self.method = duet.settings.methods[duet.policy.method]
        budget = duet.settings.compute.read_tokens
        self.cursors = {role: RaggedKVCache(loaded, budget) for role, loaded in duet.loaded.items()}
        for own in self.cursors.values():
            own.enter([[]])

    def decide(self) -> GeneratedToken:
        """The next token by router and fusion."""
        speaker = fusion.default_role(self.method)
        default, seen = lm_head.router_input_from_hidden(
            self.duet.loaded[speaker], self._read(speaker)[-1:], self.duet.settings.dump
        )
        chance = routers.position_uniforms(
            self.duet.settings.seed, np.array([self.name]), np.array([len(self.ids) - self.given])
        )
        fused = self._fuse() if self.duet.gate.rule == "perfect" else None  # which peeks, by definition
        differs = np.array([fused is not None and fused != default[0]])
        called = bool(routers.decide(self.duet.gate, seen, chance, differs)[0])
        if called:
            fused = self._fuse() if fused is None else fused
            self._count(len(self.ids) - self.known)
            self.known = len(self.ids)
        token = fused if called else int(default[0])
        return GeneratedToken(token, int(default[0]), called, float(seen.entropy_N[0]))

    def draft(self) -> Iterator[GeneratedToken]:
        """One round of greedy speculative decoding (arXiv 2211.17192, algorithm 1)."""
        begin, drafted, entropies = len(self.ids), [], []
        room = self.duet.until.max_new_tokens - (begin - self.given)
        for _ in range(min(self.duet.policy.draft, room)):
            token, seen = lm_head.router_input_from_hidden(
                self.duet.loaded["small"], self._read("small", drafted)[-1:], self.duet.settings.dump
            )
            drafted.append(int(token[0]))
            entropies.append(float(seen.entropy_N[0]))
        states_NH = self._read("large", drafted)[-len(drafted) - 1 :]
        self._count(len(drafted) + 1)
        self.drafted_to.append(begin + len(drafted))
        says = self.duet.loaded["large"].logits(states_NH).argmax(-1).tolist()
        for i, (draft, word) in enumerate(zip(drafted, says, strict=False)):
            yield GeneratedToken(word, draft, True, entropies[i])
            if word != draft:
                self._forget(begin + i)
                return
        yield GeneratedToken(says[-1], says[-1], True, float("nan"))

    def settle(self) -> None:
        """Take drafts beyond the end of the text out of the count; to be called once it has ended."""
        self.tally.positions -= sum(max(0, reached - len(self.ids)) for reached in self.drafted_to)

    def _fuse(self) -> int:
        """The method's token here, each of its models caught up."""
        inputs = fusion.RULES[self.method.rule].inputs
        logits = {role: self.duet.loaded[role].logits(self._read(role)[-1:]) for role in inputs}
        return int(lm_head.fused_ids(self.method, logits)[0])

    def _read(self, role: str, drafted: list[int] | None = None) -> torch.Tensor:
        """Hidden states [.., H] after the tokens that the model had not read; at least the last one's."""
        own, whole = self.cursors[role], self.ids + (drafted or [])
        held = min(int(own.length_R[0]), len(whole) - 1)
        own.select(np.array([0]), np.array([held]))
        return own.extend([whole[held:]])

    def _count(self, positions: int) -> None:
        self.tally.passes += 1
        self.tally.positions += positions

    def _forget(self, length: int) -> None:
        """Take back what was drafted beyond a text of this length."""
        for own in self.cursors.values():
            own.select(np.array([0]), np.minimum(own.length_R, length))
