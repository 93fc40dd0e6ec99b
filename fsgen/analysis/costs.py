"""Costs of a policy: passes and positions of the models, and their FLOPs.

Shape legend: N rows (tokens of all texts, one text after the other, in position order), T texts in
order of appearance, R speculative rounds, S stretches of consecutive positions.

The input of generated position i is the token before it, so a prompt of n tokens fills n - 1 prompt
positions and its last token is the input of generated position 0. In the whole sequence that input
stands at index n - 1 + i.
"""

from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """What of a model's size decides its FLOPs."""

    non_embedding: int
    """Parameters outside the embedding and the head."""
    head: int
    """Parameters of the output head, tied or not."""
    layers: int
    width: int
    """Attention heads times head dimension."""


class Rounds(NamedTuple):
    """Rounds of speculative decoding: S drafts, L verifies them in one pass."""

    text_R: np.ndarray
    """The text's id, as given."""
    start_R: np.ndarray
    """Position in the text of the round's first token."""
    drafted_R: np.ndarray
    accepted_R: np.ndarray
    """Leading drafts that L agrees with; the token that L adds is not among them."""


class Spent(NamedTuple):
    """What the large model did for each text."""

    passes_T: np.ndarray
    positions_T: np.ndarray
    """Generated positions, rejected drafts and catching up included."""
    prompt_positions_T: np.ndarray


def speculative_rounds(mismatch_N: np.ndarray, text_N: np.ndarray, draft: int) -> Rounds:
    """The rounds of greedy speculative decoding, ordered by text and start (arXiv 2211.17192).

    `mismatch_N` says where argmax S differs from argmax L on L's own text. A round at position p of
    n drafts min(draft, n - p) tokens; L accepts those before the first mismatch and adds one of its
    own, the correction or, where all were right, the token after them, unless the text has ended.
    Raises ValueError on draft < 1 or a text whose rows do not stand together.
    """
    if draft < 1:
        raise ValueError(f"Expected at least one drafted token a round, got {draft}.")
    mismatch_N, text_N = np.asarray(mismatch_N, dtype=bool), np.asarray(text_N)
    first_T = _first_rows(text_N, mismatch_N)
    row_N, first_N, end_N = _spans(first_T, len(text_N))
    drafted_N = np.minimum(draft, end_N - row_N)
    accepted_N = np.minimum(_next(mismatch_N) - row_N, drafted_N)
    after_N = row_N + accepted_N + 1
    jump_N = np.where(after_N < end_N, after_N, len(text_N))
    round_R = _visited(first_T, jump_N)
    return Rounds(text_N[round_R], (row_N - first_N)[round_R], drafted_N[round_R], accepted_N[round_R])


def _next(mismatch_N: np.ndarray) -> np.ndarray:
    """The first row at or after each one that is a mismatch; the number of rows where none is."""
    row_N = np.where(mismatch_N, np.arange(len(mismatch_N)), len(mismatch_N))
    return np.minimum.accumulate(row_N[::-1])[::-1]


def _visited(first_T: np.ndarray, jump_N: np.ndarray) -> np.ndarray:
    """Rows on the paths that start at `first_T` and follow `jump_N` until it leaves the rows.

    Pointer doubling: once 2^k steps of every path are known, so are 2^(k + 1).
    """
    outside = len(jump_N)
    jump = np.append(jump_N, outside)
    is_visited = np.zeros(outside + 1, dtype=bool)
    is_visited[first_T] = True
    while (jump != outside).any():
        is_visited[jump[is_visited]] = True
        jump = jump[jump]
    return np.flatnonzero(is_visited[:outside])


def verified(rounds: Rounds, prompt_tokens_T: np.ndarray) -> Spent:
    """What verification cost the large model: a pass a round, over its drafts and a token more."""
    first_T = _first_rows(rounds.text_R, rounds.start_R)
    return Spent(
        np.diff(first_T, append=len(rounds.text_R)),
        np.add.reduceat(rounds.drafted_R + 1, first_T),
        _prompt_positions(prompt_tokens_T, first_T),
    )


def drafter_positions(rounds: Rounds) -> np.ndarray:
    """Positions that the small model processed in each round, [R].

    One a drafted token, and one to catch up where all were accepted and another round follows: the
    last draft was its output, never its input.
    """
    is_followed_R = np.zeros(len(rounds.text_R), dtype=bool)
    is_followed_R[:-1] = rounds.text_R[1:] == rounds.text_R[:-1]
    return rounds.drafted_R + ((rounds.accepted_R == rounds.drafted_R) & is_followed_R)


def flops(shape: Shape, prompt_T: np.ndarray, positions_T: np.ndarray) -> np.ndarray:
    """FLOPs of one model over the first `prompt + positions` indices of each text, float64 [T].

    `prompt_T` are prompt positions, the prompt's tokens less one.
    """
    prompt_T = np.asarray(prompt_T, dtype=np.float64)
    return stretch_flops(shape, np.zeros_like(prompt_T), prompt_T + positions_T)


def stretch_flops(shape: Shape, first_S: np.ndarray, positions_S: np.ndarray) -> np.ndarray:
    """FLOPs of stretches of consecutive sequence indices from `first` on, float64 [S].

    A position costs 2 (non-embedding + head parameters), the head being counted at every one, and
    its attention 4 layers width (index + 1): a multiply-add for each score and each weighted
    value, over the context that it sees.
    """
    first_S = np.asarray(first_S, dtype=np.float64)
    positions_S = np.asarray(positions_S, dtype=np.float64)
    context_S = positions_S * first_S + positions_S * (positions_S + 1) / 2
    parameters = shape.non_embedding + shape.head
    return 2.0 * parameters * positions_S + 4.0 * shape.layers * shape.width * context_S


def speculative_flops(
    small: Shape, large: Shape, rounds: Rounds, prompt_tokens_T: np.ndarray, held_T: np.ndarray | int = 0
) -> np.ndarray:
    """FLOPs of drafting and verifying each text, both models' prompts included, float64 [T].

    `held_T` are sequence indices before the prompt that the models hold already: earlier turns.
    """
    first_T = _first_rows(rounds.text_R, rounds.start_R)
    prompt_T = _prompt_positions(prompt_tokens_T, first_T)
    rounds_T = np.diff(first_T, append=len(rounds.text_R))
    index_R = np.repeat(held_T + prompt_T, rounds_T) + rounds.start_R
    flops_R = stretch_flops(large, index_R, rounds.drafted_R + 1)
    flops_R += stretch_flops(small, index_R, drafter_positions(rounds))
    prompts = stretch_flops(large, held_T, prompt_T) + stretch_flops(small, held_T, prompt_T)
    return prompts + np.add.reduceat(flops_R, first_T)


def _first_rows(text_N: np.ndarray, column_N: np.ndarray) -> np.ndarray:
    """Rows at which texts begin, [T]."""
    if len(text_N) != len(column_N):
        raise ValueError(f"Expected one text id a row, got {len(text_N)} for {len(column_N)} rows.")
    is_first_N = np.ones(len(text_N), dtype=bool)
    is_first_N[1:] = text_N[1:] != text_N[:-1]
    first_T = np.flatnonzero(is_first_N)
    if len(np.unique(text_N[first_T])) != len(first_T):
        raise ValueError("Expected the rows of a text to stand together; sort them by text first.")
    return first_T


def _spans(first_T: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every row's own index, its text's first row and the row after its text's last, [N] each."""
    lengths_T = np.diff(first_T, append=rows)
    return np.arange(rows), np.repeat(first_T, lengths_T), np.repeat(first_T + lengths_T, lengths_T)


def _prompt_positions(prompt_tokens_T: np.ndarray, first_T: np.ndarray) -> np.ndarray:
    prompt_tokens_T = np.asarray(prompt_tokens_T)
    if len(prompt_tokens_T) != len(first_T) or (prompt_tokens_T < 1).any():
        raise ValueError(f"Expected a prompt of at least one token for each of {len(first_T)} texts.")
    return prompt_tokens_T - 1
