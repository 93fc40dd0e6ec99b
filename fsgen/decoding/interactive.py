"""One text written by a pair under any policy, token by token, to be shown while it is written.

It uses no prefix tree and no dumped text, only the routers, rules and stop rule of the rollout, so in float32
it writes the same tokens. Shape legend: H hidden width, N positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from fsgen.collaboration.router_input import RouterInput
from fsgen.collaboration.routers import position_uniforms
from fsgen.decoding import lm_head
from fsgen.decoding.pair_session import PairSession
from fsgen.decoding.texts import TokenSequence
from fsgen.models import spec
from fsgen.models.kv_cache import RaggedKVCache


class GeneratedToken(NamedTuple):
    """A token and which model chose it."""

    token_id: int
    default_id: int
    """The token that would have been written without the large model."""
    called: bool
    """Whether the large model was called here; it is called at every drafted token."""
    entropy: float
    """Of the default model, nats; NaN at the token that verification adds after a draft."""

    @property
    def is_changed(self) -> bool:
        """Whether the large model replaced the default token by another."""
        return self.called and self.token_id != self.default_id


@dataclass
class LargeModelUse:
    """What the large model did for one text."""

    passes: int = 0
    """Forward calls; rounds if the policy drafts."""
    positions: int = 0
    """Generated positions that it processed, with rejected drafts and positions that it caught up on.

    Drafts beyond the text's end are not counted once the text has ended, as in fsgen.analysis.costs.
    """


@torch.inference_mode()
def generate_tokens(
    session: PairSession, prompt: pl.DataFrame, usage: LargeModelUse
) -> Iterator[GeneratedToken]:
    """The tokens of a text as they are chosen; adds to `usage`. `prompt` is a prompts table of one row."""
    prompt_id, stop_rule = prompt["prompt_id"][0], session.stop_rule
    (ids,) = spec.prompt_ids(session.loaded["large"], prompt, stop_rule.max_new_tokens)
    state = _TextState(session, prompt_id, ids, usage)
    text = TokenSequence([])
    while True:
        for token in state.draft() if session.policy.draft else [state.decide()]:
            yield token
            state.ids.append(token.token_id)
            (text,) = stop_rule.close_finished_turns([prompt_id], [text.followed_by(token.token_id)])
            if stop_rule.is_finished(prompt_id, text):
                state.discount_unused_drafts()
                return


def generate_pieces(
    session: PairSession, prompt: pl.DataFrame, usage: LargeModelUse
) -> Iterator[tuple[str, GeneratedToken]]:
    """The tokens with the piece of text that each adds, empty where a character is not complete yet."""
    decode = session.loaded["large"].tokenizer.decode
    ids, shown = [], ""
    for token in generate_tokens(session, prompt, usage):
        ids.append(token.token_id)
        text = decode(ids)
        piece = "" if text.endswith("\ufffd") else text[len(shown) :]
        shown += piece
        yield piece, token


def summarize(tokens: list[GeneratedToken], usage: LargeModelUse) -> str:
    """Call and intervention ratio of a text and what the large model did for it, in a sentence."""
    calls, changes = sum(token.called for token in tokens), sum(token.is_changed for token in tokens)
    return (
        f"{len(tokens)} tokens; called at {calls} ({calls / len(tokens):.1%}), changed {changes} "
        f"({changes / len(tokens):.1%}); {usage.passes} passes of the large model over {usage.positions} "
        "positions"
    )


class _TextState:
    """One text, and how far the models have read it."""

    def __init__(self, session: PairSession, prompt_id: str, prompt: list[int], usage: LargeModelUse):
        self.session, self.prompt_id, self.usage = session, prompt_id, usage
        self.ids = list(prompt)
        self.prompt_tokens = len(prompt)
        # the prompt's last token is the input of the first generated position
        self.large_read = len(prompt) - 1
        self.draft_ends: list[int] = []
        self.caches = {
            role: RaggedKVCache(model, session.max_batch_tokens) for role, model in session.loaded.items()
        }
        for cache in self.caches.values():
            cache.prefill([[]])

    def decide(self) -> GeneratedToken:
        """The next token by router and fusion."""
        default_id, seen = self._default(self.session.method.definition.default_role)
        called, fused_id = self._route(default_id, seen)
        if called:
            fused_id = self._fuse() if fused_id is None else fused_id
            self._count_pass(len(self.ids) - self.large_read)
            self.large_read = len(self.ids)
        token_id = fused_id if called else default_id
        return GeneratedToken(token_id, default_id, called, float(seen.entropy_N[0]))

    def _route(self, default_id: int, seen: RouterInput) -> tuple[bool, int | None]:
        """Whether the router calls the large model, and the fused token if the router needed to know it."""
        router, pos = self.session.router, len(self.ids) - self.prompt_tokens
        fused_id = self._fuse() if router.needs_fused_token else None
        mismatch_N = np.array([fused_id is not None and fused_id != default_id])
        uniform_N = position_uniforms(self.session.seed, np.array([self.prompt_id]), np.array([pos]))
        return bool(router.decide(seen, uniform_N, mismatch_N)[0]), fused_id

    def draft(self) -> Iterator[GeneratedToken]:
        """One round of greedy speculative decoding (arXiv 2211.17192, algorithm 1)."""
        begin = len(self.ids)
        drafted, entropies = self._draft_tokens()
        verified = self._verify(drafted)
        for i, (draft_id, large_id) in enumerate(zip(drafted, verified, strict=False)):
            yield GeneratedToken(large_id, draft_id, True, entropies[i])
            if large_id != draft_id:
                self._forget_after(begin + i)
                return
        yield GeneratedToken(verified[-1], verified[-1], True, float("nan"))

    def _draft_tokens(self) -> tuple[list[int], list[float]]:
        """The small model's next tokens and their entropies, at most up to the limit of the text."""
        drafted, entropies = [], []
        allowed = self.session.stop_rule.max_new_tokens - (len(self.ids) - self.prompt_tokens)
        for _ in range(min(self.session.policy.draft, allowed)):
            token_id, seen = self._default("small", drafted)
            drafted.append(token_id)
            entropies.append(float(seen.entropy_N[0]))
        return drafted, entropies

    def _verify(self, drafted: list[int]) -> list[int]:
        """The large model's tokens at all drafts and at the position after them, by one pass."""
        hidden_NH = self._read("large", drafted)[-len(drafted) - 1 :]
        self._count_pass(len(drafted) + 1)
        self.draft_ends.append(len(self.ids) + len(drafted))
        return self.session.loaded["large"].logits(hidden_NH).argmax(-1).tolist()

    def discount_unused_drafts(self) -> None:
        """Take drafts beyond the end of the text out of the count; to be called once it has ended."""
        self.usage.positions -= sum(max(0, end - len(self.ids)) for end in self.draft_ends)

    def _default(self, role: str, drafted: list[int] | None = None) -> tuple[int, RouterInput]:
        """A model's top token after the text and the drafts, and what routers see of it."""
        hidden_NH = self._read(role, drafted)[-1:]
        token_N, seen = lm_head.router_input_from_hidden(
            self.session.loaded[role], hidden_NH, self.session.dump
        )
        return int(token_N[0]), seen

    def _fuse(self) -> int:
        """The method's token after the text."""
        logits = {
            role: self.session.loaded[role].logits(self._read(role)[-1:])
            for role in self.session.method.definition.inputs
        }
        return int(lm_head.fused_ids(self.session.method, logits)[0])

    def _read(self, role: str, drafted: list[int] | None = None) -> torch.Tensor:
        """Let a model read what it has missed, the last token at least; hidden states [N, H] after each."""
        cache, ids = self.caches[role], self.ids + (drafted or [])
        held = min(int(cache.length_R[0]), len(ids) - 1)
        cache.reorder(np.array([0]), np.array([held]))
        return cache.append([ids[held:]])

    def _count_pass(self, positions: int) -> None:
        self.usage.passes += 1
        self.usage.positions += positions

    def _forget_after(self, length: int) -> None:
        """Drop what the models have read beyond so many tokens."""
        for cache in self.caches.values():
            cache.reorder(np.array([0]), np.minimum(cache.length_R, length))
