"""The tables `tokens` and `texts` of texts that policies wrote.

Shape legend: N decisions, T tokens of all texts, one text after the other.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.collaboration import routers
from fsgen.decoding import stored_texts
from fsgen.decoding.rollout.decisions import Decisions
from fsgen.decoding.rollout.runs import FinishedText, PolicyRun
from fsgen.decoding.texts import StopRule
from fsgen.tables import parquet
from fsgen.tables.schemas.dumps import ROLLOUT_TEXTS, ROLLOUT_TOKENS

ORDER = [(name, "ascending") for name in ("policy", "prompt_id", "turn", "pos")]


class PolicyTables(NamedTuple):
    """Tokens and texts of some policies."""

    policies: list[str]
    tokens: pa.Table
    """Columns of ROLLOUT_TOKENS."""
    texts: pa.Table
    """Columns of ROLLOUT_TEXTS."""


def policy_tables(
    decisions: Decisions,
    finished: list[FinishedText],
    runs: list[PolicyRun],
    prompts: dict[str, list[int]],
    stop_rule: StopRule,
) -> PolicyTables:
    """Tables of all runs' finished texts; `prompts` maps prompt ids to tokens."""
    tokens = _token_rows(decisions, finished, runs, list(prompts))
    return PolicyTables([run.name for run in runs], tokens, _text_rows(finished, runs, prompts, stop_rule))


def read_policy_tables(home: Path, policies: list[str]) -> PolicyTables:
    """What a finished shard in the folder `home` holds of these policies."""
    is_wanted = pl.col("policy").is_in(policies)
    tokens = parquet.read(home / "tokens.parquet").filter(is_wanted).to_arrow().cast(ROLLOUT_TOKENS)
    turns = parquet.read(home / "texts.parquet").filter(is_wanted).to_arrow().cast(ROLLOUT_TEXTS)
    return PolicyTables(policies, tokens, turns)


def join_policy_tables(parts: list[PolicyTables]) -> PolicyTables:
    """Tables of all policies of the parts, sorted, so that nothing depends on how policies were divided."""
    return PolicyTables(
        [name for part in parts for name in part.policies],
        pa.concat_tables([part.tokens for part in parts]).sort_by(ORDER),
        pa.concat_tables([part.texts for part in parts]).sort_by(ORDER[:3]),
    )


def _token_rows(
    decisions: Decisions, finished: list[FinishedText], runs: list[PolicyRun], prompt_ids: list[str]
) -> pa.Table:
    """Every token of the finished texts; those that policies chose with what decided them."""
    flags = stored_texts.token_flags([end.text for end in finished])
    row_N = _rows_of_decisions(decisions, finished, (len(runs), len(prompt_ids)))
    lengths = [len(end.text.ids) for end in finished]
    columns = flags._asdict() | {
        "policy": np.repeat([runs[end.run].name for end in finished], lengths),
        "prompt_id": np.repeat([prompt_ids[end.prompt] for end in finished], lengths),
        "pos": np.concatenate([np.arange(length) for length in lengths]),
        "token_id": np.concatenate([end.text.ids for end in finished]),
    }
    for name, values_N in _decision_columns(decisions, runs).items():
        columns[name] = _spread(row_N, values_N, flags.from_template)
    return pa.table({name: columns[name] for name in ROLLOUT_TOKENS.names}).cast(ROLLOUT_TOKENS)


def _rows_of_decisions(
    decisions: Decisions, finished: list[FinishedText], shape: tuple[int, int]
) -> np.ndarray:
    """Index of each decision's token among all tokens, [N]; `shape` is the number of runs and of prompts."""
    lengths = np.array([len(end.text.ids) for end in finished])
    first_row = np.zeros(shape, dtype=np.int64)
    first_row[[end.run for end in finished], [end.prompt for end in finished]] = lengths.cumsum() - lengths
    return first_row[decisions.run_N, decisions.prompt_N] + decisions.pos_N


def _decision_columns(decisions: Decisions, runs: list[PolicyRun]) -> dict[str, np.ndarray]:
    """Columns of ROLLOUT_TOKENS that decisions fill, [N] each."""
    return {
        "default_id": decisions.default_id_N,
        "small_id": decisions.small_id_N,
        "fused_id": decisions.fused_id_N,
        "called": decisions.called_N,
        "mismatch": decisions.fused_id_N != decisions.default_id_N,
        "max_probability": routers.max_probability(decisions.seen),
        "margin": routers.margin(decisions.seen),
        "entropy": decisions.seen.entropy_N,
        "score": _scores(decisions, runs),
    }


def _scores(decisions: Decisions, runs: list[PolicyRun]) -> np.ndarray:
    """What each run's router compared with its threshold, [N]; NaN for routers without a score."""
    score_N = np.full(len(decisions.run_N), np.nan, dtype=np.float32)
    for index in np.unique(decisions.run_N):
        rows = np.flatnonzero(decisions.run_N == index)
        scores = runs[index].router.score(decisions.seen.take(rows))
        if scores is not None:
            score_N[rows] = scores
    return score_N


def _spread(row_N: np.ndarray, values_N: np.ndarray, forced_T: np.ndarray) -> pa.Array:
    """The values at their rows, [T]; null at tokens of the template and where a value is NaN."""
    values_T = np.zeros(len(forced_T), dtype=values_N.dtype)
    values_T[row_N] = values_N
    is_nan_T = values_T != values_T
    return pa.array(values_T, mask=forced_T | is_nan_T)


def _text_rows(
    finished: list[FinishedText], runs: list[PolicyRun], prompts: dict[str, list[int]], stop_rule: StopRule
) -> pa.Table:
    """The finished texts, one row a turn."""
    prompt_ids, rows = list(prompts), []
    for end in finished:
        prompt_id, policy = prompt_ids[end.prompt], runs[end.run].name
        turns = stored_texts.text_rows(stop_rule, prompt_id, prompts[prompt_id], end.text)
        rows += [{"policy": policy, **turn} for turn in turns]
    return pa.Table.from_pylist(rows, schema=ROLLOUT_TEXTS)
