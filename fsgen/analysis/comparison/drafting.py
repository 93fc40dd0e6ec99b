"""Speculative decoding on the dumps: acceptance, accepted lengths for every K, and the speed-up they allow.

Shape legend: N rows (tokens of the large model's own texts, one text after the other), P prompts,
R rounds, C cost ratios.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.analysis import costs, intervals
from fsgen.analysis.intervals import CI_COLUMNS, Interval, interval_columns
from fsgen.tables import parquet
from fsgen.tables.columns import PAIR

ACCEPTANCE = parquet.schema(
    [
        PAIR,
        ("quantity", pa.string(), "greedy: argmaxes agree; sampled: expected sum of min(p, q)"),
        ("value", pa.float64(), "acceptance rate along the large model's text; sampled: what is certified"),
        ("value_high", pa.float64(), "sampled: the certified upper bound"),
        ("low", pa.float64(), "lower end of the 95 % interval of `value` over prompts"),
        ("high", pa.float64(), "upper end of the 95 % interval of `value_high`"),
    ]
)
DRAFTS = parquet.schema(
    [
        PAIR,
        ("draft", pa.int64(), "tokens drafted a round, K"),
        ("accepted", pa.float64(), "of them accepted, mean over rounds; the added token is not counted"),
        *CI_COLUMNS,
        ("tokens_per_pass", pa.float64(), "tokens of the text for each pass of the large model"),
        ("passes_low", pa.float64(), "lower end"),
        ("passes_high", pa.float64(), "upper end"),
    ]
)
SPEEDUPS = parquet.schema(
    [
        PAIR,
        ("draft", pa.int64(), "tokens drafted a round, K"),
        ("cost_ratio", pa.float64(), "time of a small model's step over that of a large model's pass"),
        ("speedup", pa.float64(), "expected time of the large model alone over that of drafting"),
        *CI_COLUMNS,
        ("own_cost_ratio", pa.float64(), "the pair's ratio of FLOPs a token, a stand-in for time"),
    ]
)
DRAFTED = tuple(range(1, 11))  # K
TIMED = (1, 3, 5, 8)  # K whose speed-up is given
COST_RATIOS = tuple(np.round(np.geomspace(0.01, 1.0, 25), 4).tolist())


class Drafted(NamedTuple):
    """What drafting K tokens a round comes to on each prompt."""

    draft: int
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
    return intervals.ratio(drafted.accepted_P, drafted.rounds_P, seed=seed, limits=(0.0, drafted.draft))


def tokens_per_pass(drafted: Drafted, *, seed: int) -> Interval:
    """Tokens of the text for each pass of the large model; 1 without drafting."""
    return intervals.ratio(drafted.tokens_P, drafted.rounds_P, seed=seed, limits=(1.0, drafted.draft + 1.0))


def speed_up(drafted: Drafted, cost_ratio: float, *, verification: float = 1.0, seed: int) -> Interval:
    """Time of the large model alone over time of drafting.

    A position of the small model costs `cost_ratio` steps of the large one, and a pass that verifies a
    round `verification` steps: 1 where steps are bound by memory, as for a batch of one on a card
    (arXiv 2211.17192, theorem 3.8, with the lengths that were found in place of independent acceptance).
    """
    spent_P = verification * drafted.rounds_P + cost_ratio * drafted.drafter_P
    k = drafted.draft  # at worst a round drafts K for one token, at best it writes K + 1 for nothing
    limits = 1 / (verification + k * cost_ratio), (k + 1) / verification
    return intervals.ratio(drafted.tokens_P, spent_P, seed=seed, limits=limits)


def acceptance_rows(rows: pl.DataFrame, *, seed: int) -> Iterator[dict]:
    """Rows of ACCEPTANCE but their pair; `rows` as for `drafted_rows`, with accept_low and accept_high."""
    summed = pl.sum("accept_low", "accept_high"), (~pl.col("mismatch")).sum().alias("agreed")
    own = rows.filter("in_answer").group_by("prompt_id", maintain_order=True).agg(*summed, tokens=pl.len())
    shares = {}
    for column in ("agreed", "accept_low", "accept_high"):
        counts = (own[name].to_numpy().astype(np.float64) for name in (column, "tokens"))
        shares[column] = intervals.ratio(*counts, seed=seed)
    for quantity, ends in {"greedy": ("agreed",) * 2, "sampled": ("accept_low", "accept_high")}.items():
        below, above = (shares[end] for end in ends)
        values = {"value": below.value, "value_high": above.value, "low": below.low, "high": above.high}
        yield {"quantity": quantity} | values


def drafted_rows(rows: pl.DataFrame, cost_ratio: float, *, seed: int) -> tuple[list[dict], list[dict]]:
    """Rows of DRAFTS and of SPEEDUPS but their pair.

    `rows` are the tokens that the large model chose, in order: prompt_id, turn, mismatch, in_answer.
    `cost_ratio` is the pair's own, to be told beside the others.
    """
    drafts, speedups = [], []
    for k in DRAFTED:
        drafted = draft_along(rows, k)
        passes = interval_columns(
            tokens_per_pass(drafted, seed=seed), "tokens_per_pass", "passes_low", "passes_high"
        )
        drafts.append(
            {"draft": k} | interval_columns(accepted_length(drafted, seed=seed), "accepted") | passes
        )
        for ratio in COST_RATIOS if k in TIMED else ():
            found = interval_columns(speed_up(drafted, ratio, seed=seed), "speedup")
            speedups.append({"draft": k, "cost_ratio": ratio, "own_cost_ratio": cost_ratio} | found)
    return drafts, speedups
