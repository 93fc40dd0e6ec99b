"""Speculative decoding on the dumps: acceptance, accepted lengths for every K, and the speed-up they allow.

Shape legend: N rows (tokens of the large model's own texts, one text after another), P prompts,
R rounds, C cost ratios.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.analysis import costs, intervals
from fsgen.analysis.intervals import Interval, interval_columns

DRAFTED = tuple(range(1, 11))  # K
TIMED = (1, 3, 5, 8)  # K whose speed-up is given
COST_RATIOS = tuple(np.round(np.geomspace(0.01, 1.0, 25), 4).tolist())


class Drafted(NamedTuple):
    """Counts of drafting K tokens a round, by prompt."""

    draft_length: int
    """K."""
    tokens_P: np.ndarray
    rounds_P: np.ndarray
    """Passes of the large model."""
    accepted_P: np.ndarray
    """Drafted tokens that it kept; the token that it adds itself is not among them."""
    drafter_P: np.ndarray
    """Positions that the small model processed."""


def draft(mismatch_N: np.ndarray, text_N: np.ndarray, prompt_N: np.ndarray, k: int) -> Drafted:
    """Rounds of greedy drafting along the large model's texts, by prompt (arXiv 2211.17192).

    `prompt_N` numbers the prompts from 0, `text_N` the texts (a conversation has one a turn).
    """
    rounds = costs.speculative_rounds(mismatch_N, text_N, k)
    texts_T, first_T = np.unique(text_N, return_index=True)
    prompt_R = prompt_N[first_T][np.searchsorted(texts_T, rounds.text_R)]
    prompts = int(prompt_N.max(initial=-1)) + 1
    weights = (None, rounds.accepted_R, costs.drafter_positions(rounds))
    sums = (np.bincount(prompt_R, weights=weight, minlength=prompts) for weight in weights)
    return Drafted(k, np.bincount(prompt_N, minlength=prompts), *sums)


def draft_along(rows: pl.DataFrame, k: int) -> Drafted:
    """`draft` on a table of tokens: prompt_id, turn and mismatch, texts one after the other."""
    text_N = rows.select(pl.struct("prompt_id", "turn").rank("dense")).to_series().to_numpy()
    prompt_N = rows["prompt_id"].rank("dense").to_numpy().astype(np.int64) - 1
    return draft(rows["mismatch"].to_numpy(), text_N, prompt_N, k)


def accepted_length(drafted: Drafted, *, seed: int) -> Interval:
    """Mean number of drafted tokens that a round keeps."""
    return intervals.ratio(
        drafted.accepted_P, drafted.rounds_P, seed=seed, limits=(0.0, drafted.draft_length)
    )


def tokens_per_pass(drafted: Drafted, *, seed: int) -> Interval:
    """Tokens of the text for each pass of the large model; 1 without drafting."""
    return intervals.ratio(
        drafted.tokens_P, drafted.rounds_P, seed=seed, limits=(1.0, drafted.draft_length + 1.0)
    )


def speed_up(drafted: Drafted, cost_ratio: float, *, verification: float = 1.0, seed: int) -> Interval:
    """Time of the large model alone over time of drafting.

    A position of the small model costs `cost_ratio` steps of the large one, and a pass that verifies a
    round `verification` steps: 1 where steps are bound by memory, as for a batch of one on a card
    (arXiv 2211.17192, theorem 3.8, with the lengths that were found in place of independent acceptance).
    """
    spent_P = verification * drafted.rounds_P + cost_ratio * drafted.drafter_P
    k = drafted.draft_length  # at worst a round drafts K for one token, at best it writes K + 1 for nothing
    limits = 1 / (verification + k * cost_ratio), (k + 1) / verification
    return intervals.ratio(drafted.tokens_P, spent_P, seed=seed, limits=limits)


def acceptance_rows(rows: pl.DataFrame, *, seed: int) -> Iterator[dict]:
    """Rows of ACCEPTANCE_RATES, without their pair.

    `rows` are those of `drafting_tables`, with acceptance_low and acceptance_high.
    """
    agreed = (~pl.col("mismatch")).sum().alias("agreed")
    by_prompt = rows.filter("in_answer").group_by("prompt_id", maintain_order=True)
    sums = by_prompt.agg(pl.sum("acceptance_low", "acceptance_high"), agreed, tokens=pl.len())
    yield _acceptance_row("greedy", *[_token_share(sums, "agreed", seed)] * 2)
    bounds = (_token_share(sums, column, seed) for column in ("acceptance_low", "acceptance_high"))
    yield _acceptance_row("sampled", *bounds)


def _token_share(sums: pl.DataFrame, column: str, seed: int) -> Interval:
    numerator_P, tokens_P = (sums[name].to_numpy().astype(np.float64) for name in (column, "tokens"))
    return intervals.ratio(numerator_P, tokens_P, seed=seed)


def _acceptance_row(mode: str, lower: Interval, upper: Interval) -> dict:
    """A rate between two bounds; its interval spans the intervals of both."""
    return {
        "mode": mode,
        "rate": lower.value,
        "rate_upper": upper.value,
        "rate_low": lower.low,
        "rate_high": upper.high,
    }


class DraftingTables(NamedTuple):
    """Rows of ACCEPTED_LENGTHS and of SPEEDUPS, without their pair."""

    accepted_lengths: list[dict]
    speedups: list[dict]


def drafting_tables(rows: pl.DataFrame, cost_ratio: float, *, seed: int) -> DraftingTables:
    """Accepted lengths for every K of DRAFTED, and the speed-up for those of TIMED.

    `rows` are the tokens that the large model chose, in order: prompt_id, turn, mismatch, in_answer.
    `cost_ratio` is the pair's own, which is stored with those of COST_RATIOS.
    """
    drafted = {k: draft_along(rows, k) for k in DRAFTED}
    return DraftingTables(
        [_accepted_length_row(drafted[k], seed) for k in DRAFTED],
        [_speedup_row(drafted[k], ratio, cost_ratio, seed) for k in TIMED for ratio in COST_RATIOS],
    )


def _accepted_length_row(drafted: Drafted, seed: int) -> dict:
    return {
        "draft_length": drafted.draft_length,
        **interval_columns(accepted_length(drafted, seed=seed), "accepted_length"),
        **interval_columns(tokens_per_pass(drafted, seed=seed), "tokens_per_pass"),
    }


def _speedup_row(drafted: Drafted, cost_ratio: float, flops_ratio: float, seed: int) -> dict:
    speedup = interval_columns(speed_up(drafted, cost_ratio, seed=seed), "speedup")
    return {
        "draft_length": drafted.draft_length,
        "cost_ratio": cost_ratio,
        "flops_ratio": flops_ratio,
    } | speedup
