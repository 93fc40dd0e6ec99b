"""Imagined rollouts: what policies decide along imagined texts, as the tables of the rollout.

Shape legend: N positions of a text table.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from imagined import SPOKEN, Text, text_rows

from fsgen.tables import parquet
from fsgen.tables.schemas.dumps import ROLLOUT_TEXTS, ROLLOUT_TOKENS, STEPS

UNDECIDED = ("always", "never", "random", "perfect")  # routers that score nothing
BUDGET = 0.2
ON_SMALL_TEXT = ["oracle+never"] + [
    f"oracle+{router}@{100 * BUDGET:.0f}" for router in ("entropy", "logistic", "margin", "perfect", "random")
]
POLICIES = sorted([*(f"{name}+always" for name in SPOKEN), *ON_SMALL_TEXT])


def roll(subset: Text, other: Text, pieces: pa.Array) -> tuple[pa.Table, pa.Table]:
    """Rows and texts of a pair's policies: on the large model's text where all calls it, else its own.

    A policy stays on that text after a call, where a real one goes its own way.
    """
    rows, texts, small, large = [], [], subset.writer, other.writer
    subset, other = keep_tests(subset), keep_tests(other)
    for policy in POLICIES:
        text = subset if policy in ON_SMALL_TEXT else other
        decided = text.rows | decide(policy, small, large, text)
        reported = text_rows(text._replace(rows=decided), pieces)
        rows.append(name_policy(policy, pa.table(decided), ROLLOUT_TOKENS))
        texts.append(name_policy(policy, pa.table(reported), ROLLOUT_TEXTS))
    return pa.concat_tables(rows), pa.concat_tables(texts)


def keep_tests(text: Text) -> Text:
    """Of the test prompts alone, and without lists, which rollouts have none of."""
    is_mine_P, is_mine_N = text.is_test_P, np.repeat(text.is_test_P, text.length_P)
    keep_N = pa.array(is_mine_N)
    rows = {name: pa.array(column).filter(keep_N) for name, column in text.rows.items()}
    seen = {
        key: {name: x.filter(keep_N) for name, x in reported.items() if not pa.types.is_list(x.type)}
        for key, reported in text.seen.items()
    }
    names = [name for name, is_mine in zip(text.names, is_mine_P, strict=True) if is_mine]
    arrays = {name: getattr(text, name)[is_mine_P] for name in Text._fields if name.endswith("_P")}
    return Text(text.writer, names, **arrays, rows=rows, chance_N=text.chance_N[is_mine_N], seen=seen)


def name_policy(policy: str, table: pa.Table, columns: pa.Schema) -> pa.Table:
    """The table with the policy beside every row."""
    named = table.append_column("policy", pa.array([policy] * len(table), pa.string()))
    return named.select(columns.names).cast(columns)


def decide(policy: str, small: str, large: str, text: Text) -> dict:
    """What a policy decides at every position of a text, and what its router sees."""
    method, router = policy.partition("@")[0].split("+")
    seen, default = text.seen[small], text.seen[small]["top_id"]
    fused = text.seen[large]["top_id"] if method == "oracle" else text.seen[f"fused {small}-{large}"][method]
    mismatch_N = pc.not_equal(fused, default)
    score_N = score(router, seen)
    is_called_N = call(router, score_N, text.chance_N, mismatch_N.to_numpy(zero_copy_only=False))
    called = pa.array(is_called_N)
    return {
        "default_id": default,
        "small_id": default,
        "fused_id": fused,
        "token_id": pc.if_else(called, fused, default),
        "called": called,
        "mismatch": mismatch_N,
        **{name: seen[name] for name in ("max_probability", "margin", "entropy")},
        "score": pa.nulls(len(default), pa.float32()) if score_N is None else pa.array(score_N),
    }


def score(router: str, seen: dict) -> np.ndarray | None:
    """What a scored router compares; of `margin` it falls with doubt, of `logistic` it is made up."""
    if router in UNDECIDED:
        return None
    if router in ("entropy", "margin"):
        return seen[router].to_numpy()
    entropy_N, probability_N = (seen[name].to_numpy() for name in ("entropy", "max_probability"))
    return 1 / (1 + np.exp(3 - 1.5 * entropy_N - 2 * (1 - probability_N)))


def call(router: str, score_N: np.ndarray | None, chance_N: np.ndarray, mismatch_N: np.ndarray) -> np.ndarray:
    """Whether the router calls, about `BUDGET` of the time where it has a budget."""
    if router == "margin":
        return score_N < np.quantile(score_N, BUDGET)
    if score_N is not None:
        return score_N > np.quantile(score_N, 1 - BUDGET)
    if router == "random":
        return chance_N < BUDGET
    if router == "perfect":
        return mismatch_N & (chance_N < BUDGET / max(mismatch_N.mean(), BUDGET))
    return np.full(len(mismatch_N), router == "always")


class Rolled:
    """The rollouts of a pair that are still to be written, and the shards that are."""

    def __init__(self, folder: Path, block: int):
        self.folder, self.block, self.shards = folder, block, 0
        self.tokens, self.texts = ROLLOUT_TOKENS.empty_table(), ROLLOUT_TEXTS.empty_table()
        self.names: list[str] = []

    def add(self, tokens: pa.Table, texts: pa.Table, names: list[str]) -> None:
        """More rows, of these prompts in their order."""
        self.tokens, self.texts = (
            pa.concat_tables(pair) for pair in ((self.tokens, tokens), (self.texts, texts))
        )
        self.names += names

    def write(self, is_last: bool) -> None:
        """Write as many whole shards as there are, or all that is left."""
        while len(self.names) >= (1 if is_last else self.block):
            mine, self.names = self.names[: self.block], self.names[self.block :]
            tokens, self.tokens = split_off(self.tokens, mine)
            texts, self.texts = split_off(self.texts, mine)
            steps = count_steps(tokens, texts)
            for name, table in {"tokens": tokens, "texts": texts, "steps": steps}.items():
                parquet.write(self.folder / f"{name}-{self.shards:04d}.parquet", table, table.schema)
            self.shards += 1


def split_off(table: pa.Table, names: list[str]) -> tuple[pa.Table, pa.Table]:
    """The rows of these prompts, by policy and prompt, and the rest."""
    place_N = pc.index_in(table["prompt_id"], value_set=pa.array(sorted(names)))
    is_mine = pc.is_valid(place_N)
    mine, rest = table.filter(is_mine), table.filter(pc.invert(is_mine))
    policy_N = pc.index_in(mine["policy"], value_set=pa.array(POLICIES)).to_numpy()
    rank_N = policy_N * len(names) + place_N.filter(is_mine).to_numpy()
    return mine.take(pa.array(rank_N.argsort(kind="stable"))), rest


def count_steps(tokens: pa.Table, texts: pa.Table) -> pa.Table:
    """Model steps, as if sharing had saved six in ten."""
    rows, called = len(tokens), pc.sum(tokens["called"]).as_py()
    given = pc.sum(texts["prompt_tokens"]).as_py() // len(POLICIES)
    alone = {"small": rows, "large": called}
    reported = [
        {"role": role, "shared_steps": int(0.4 * n), "separate_steps": n, "shared_prompt_steps": given}
        for role, n in alone.items()
    ]
    return pa.Table.from_pylist(reported, schema=STEPS)
