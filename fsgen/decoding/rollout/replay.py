"""Replay: how far each policy gets along dumped texts, where its decisions need no model.

Shape legend: N rows (positions of dumped texts).

On the text of its default model or of the large model, a policy's next token follows from the dumps, as long
as the fused token is certified. A policy is replayed along one text while it writes the same tokens, then
along the other if that goes on with the same token. Replay ends at the first token that is in neither text,
and at the first position without a certified fused token.

Example: small wrote "a b c" and large "a b d". Policies A and B call at position 2 only, and fuse "d" and "e"
there. Both write "a b" along small's text. Then A writes "d", so it is at the end of large's text and
finished. B writes "e", and a tree has to continue "a b e".
"""

from typing import NamedTuple

import numpy as np

from fsgen.collaboration.router_input import RouterInput, router_input
from fsgen.collaboration.routers import position_uniforms
from fsgen.decoding.rollout.decisions import Decisions, concatenate
from fsgen.decoding.rollout.dumped_texts import DumpedText, DumpedTexts
from fsgen.decoding.rollout.runs import FinishedText, PendingText, PolicyRun
from fsgen.decoding.texts import StopRule, TokenSequence


class Replayed(NamedTuple):
    """Runs as far as the dumped texts determine them."""

    decisions: Decisions
    pending: list[PendingText]
    """Texts that have left the dumped ones."""
    finished: list[FinishedText]


class ReplayedPrefix(NamedTuple):
    """One run on one prompt, as far as the dumped texts determine it."""

    rows: np.ndarray
    """Rows of the dumped texts that it decided at, in the order of its text."""
    text: TokenSequence
    """Its tokens so far, with the turns that ended on a dumped text."""


def replay(
    runs: list[PolicyRun],
    dumped: dict[str, DumpedTexts],
    prompt_ids: list[str],
    stop_rule: StopRule,
    seed: int,
    width: int,
) -> Replayed:
    """Replay all runs on all prompts; `dumped` by method, `width` the most likely tokens that routers see."""
    seen = {
        method: router_input(dumped[method].rows, width) for method in {run.policy.method for run in runs}
    }
    parts, pending, finished = [], [], []
    for index, run in enumerate(runs):
        texts, run_seen = dumped[run.policy.method], seen[run.policy.method]
        called_N = _called(run, texts, run_seen, seed)
        for prompt_id, prefix in replay_run(texts, called_N).items():
            prompt = prompt_ids.index(prompt_id)
            parts.append(_decisions(index, prompt, texts, run_seen, called_N, prefix.rows))
            text = _close_turn(stop_rule, prompt_id, prefix.text)
            if stop_rule.is_finished(prompt_id, text):
                finished.append(FinishedText(index, prompt, text))
            else:
                pending.append(PendingText(index, prompt, text))
    return Replayed(concatenate(parts), pending, finished)


def _called(run: PolicyRun, dumped: DumpedTexts, seen: RouterInput, seed: int) -> np.ndarray:
    """Whether the run's router would call the large model at each row of the dumped texts, bool [N]."""
    rows = dumped.rows
    uniform_N = position_uniforms(seed, rows["prompt_id"].to_numpy(), rows["pos"].to_numpy())
    mismatch_N = rows["fused_id"].to_numpy() != rows["default_id"].to_numpy()
    return run.router.decide(seen, uniform_N, mismatch_N)


def replay_run(dumped: DumpedTexts, called_N: np.ndarray) -> dict[str, ReplayedPrefix]:
    """Prompt to how far a run gets that calls the large model at these rows of its method's dumped texts."""
    rows = dumped.rows
    template_N, certified_N = rows["from_template"].to_numpy(), rows["certified"].to_numpy()
    token_N = np.where(called_N, rows["fused_id"].to_numpy(), rows["default_id"].to_numpy())
    agrees_N = template_N | (certified_N & (token_N == rows["token_id"].to_numpy()))
    path = _Path(token_N, certified_N, _next_disagreement(agrees_N))
    prefixes = {prompt_id: path.follow(texts) for prompt_id, texts in dumped.by_prompt().items()}
    return {
        prompt_id: prefix._replace(rows=prefix.rows[~template_N[prefix.rows]])
        for prompt_id, prefix in prefixes.items()
    }


def _next_disagreement(agrees_N: np.ndarray) -> np.ndarray:
    """The first row at or after each one where the run does not write the dumped token, N if none is."""
    # a running minimum from the end: one pass for all positions at which a run may enter the text
    row_N = np.where(agrees_N, len(agrees_N), np.arange(len(agrees_N)))
    return np.minimum.accumulate(row_N[::-1])[::-1]


class _Path(NamedTuple):
    """What one run does at every row of the dumped texts."""

    token_N: np.ndarray
    """The token it writes."""
    certified_N: np.ndarray
    """Whether that token is certain."""
    leaves_N: np.ndarray
    """The first row at or after this one where it leaves the dumped text."""

    def follow(self, texts: list[DumpedText]) -> ReplayedPrefix:
        """Follow a prompt's first text, and change to another where that goes on with the same token."""
        text, pos, pieces = texts[0], 0, []
        while True:
            stop = min(int(self.leaves_N[text.first_row + pos]) - text.first_row, len(text.ids))
            is_decided = stop < len(text.ids) and self.certified_N[text.first_row + stop]
            pieces.append(np.arange(text.first_row + pos, text.first_row + stop + is_decided))
            if not is_decided:
                return ReplayedPrefix(np.concatenate(pieces), text.up_to(stop))
            # the decision at `stop` stands, and the other dumped text may go on with the same token
            longer = text.up_to(stop).followed_by(int(self.token_N[text.first_row + stop]))
            pos = len(longer.ids)
            text = next((other for other in texts if other.ids[:pos] == longer.ids), None)
            if text is None:
                return ReplayedPrefix(np.concatenate(pieces), longer)
            if pos == len(text.ids):
                return ReplayedPrefix(np.concatenate(pieces), text.up_to(pos))


def _close_turn(stop_rule: StopRule, prompt_id: str, text: TokenSequence) -> TokenSequence:
    """The text, with its turn closed if its last token, which no dumped text has, ended that."""
    if not text.turn_ids:
        return text
    (closed,) = stop_rule.close_finished_turns([prompt_id], [text])
    return closed


def _decisions(
    run: int, prompt: int, dumped: DumpedTexts, seen: RouterInput, called_N: np.ndarray, rows: np.ndarray
) -> Decisions:
    """What a run decided at these rows of the dumped texts."""
    chosen = dumped.rows[rows]
    return Decisions(
        run_N=np.full(len(rows), run),
        prompt_N=np.full(len(rows), prompt),
        pos_N=chosen["pos"].to_numpy(),
        called_N=called_N[rows],
        default_id_N=chosen["default_id"].to_numpy(),
        small_id_N=chosen["small_id"].to_numpy(),
        fused_id_N=chosen["fused_id"].to_numpy(),
        seen=seen.take(rows),
    )
