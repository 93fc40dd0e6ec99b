"""The tables of texts that policies wrote: rows with what decided them, texts, and the steps they take.

Shape legend: N rows (positions of texts).
"""

from collections import defaultdict
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.collaboration import fusion, routers
from fsgen.collaboration.router_input import RouterInput
from fsgen.decoding import texts
from fsgen.decoding.rollout.prefix_tree import FinishedText
from fsgen.decoding.rollout.replay import PolicyRun
from fsgen.decoding.texts import TEXTS, StopRule
from fsgen.tables import parquet

POLICY = ("policy", pa.string(), "policy that wrote the text")
ROLLED = parquet.schema(
    [
        POLICY,
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("token_id", pa.int32(), "the token written: fused_id if called, else default_id"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("forced", pa.bool_(), "whether the token was given, not chosen; such a row has no decision"),
        ("default_id", pa.int32(), "argmax of the model that speaks when the large one is not called"),
        ("small_id", pa.int32(), "argmax of the small model, which FS-GEN compares proxy with"),
        ("fused_id", pa.int32(), "argmax of the fused score over the full vocabulary"),
        ("called", pa.bool_(), "whether the router called the large model"),
        ("mismatch", pa.bool_(), "whether fused_id differs from default_id"),
        ("max_probability", pa.float32(), "top probability of the model that would speak"),
        ("margin", pa.float32(), "its top probability less its second"),
        ("entropy", pa.float32(), "its entropy, nats"),
        ("score", pa.float32(), "what the policy's router compares with its threshold; null without one"),
    ]
)
ROLLED_TEXTS = parquet.schema([POLICY, *((f.name, f.type, f.metadata[b"about"].decode()) for f in TEXTS)])
STEPS = parquet.schema(
    [
        ("role", pa.string(), "small, tuned or large"),
        ("taken", pa.int64(), "generated positions that its model processes, unasked ones included"),
        ("alone", pa.int64(), "those that its model would process if every policy wrote by itself"),
        ("taken_prompt", pa.int64(), "prompt positions that its model processes"),
    ]
)
ORDER = [(name, "ascending") for name in ("policy", "prompt_id", "turn", "pos")]
departure_pos = dict[tuple[str, str], int]
"""Policy and prompt to the position at which the text left the dumped ones, where it did."""
FedTokens = tuple[int, ...]
"""What a model is fed of a text, from the prompt's last token on, which is 0; forced tokens are -1 - id."""


class PolicyTables(NamedTuple):
    """Rows of some policies."""

    policies: list[str]
    tokens: pa.Table
    texts: pa.Table


def read_policy_tables(home: Path, policies: list[str]) -> PolicyTables:
    """What a finished shard holds of these policies."""
    mine = pl.col("policy").is_in(policies)
    tokens, spelt = (parquet.read(home / f"{name}.parquet").filter(mine) for name in ("tokens", "texts"))
    return PolicyTables(policies, tokens.to_arrow().cast(ROLLED), spelt.to_arrow().cast(ROLLED_TEXTS))


def tables(
    riders: list[PolicyRun], shares: list[PolicyTables], left: departure_pos, prompts: dict[str, list[int]]
) -> dict[str, pa.Table]:
    """The shard's tables, which do not tell the shares apart."""
    tokens = pa.concat_tables([share.tokens for share in shares]).sort_by(ORDER)
    spelt = pa.concat_tables([share.texts for share in shares]).sort_by(ORDER[:3])
    alone, taken = _alone(tokens, riders), _taken(tokens, riders, left, prompts)
    steps = [(role, generated, alone[role], given) for role, (generated, given) in taken.items()]
    steps = pl.DataFrame(steps, schema=STEPS.names, orient="row")
    return {"tokens": tokens, "texts": spelt, "steps": steps.to_arrow().cast(STEPS)}


def token_rows(told: dict, ends: list[FinishedText], riders: list[PolicyRun], names: list[str]) -> pa.Table:
    """Every row of the finished texts, those that policies chose with what decided them."""
    lengths = np.array([len(end.text.ids) for end in ends])
    first = np.zeros((len(riders), len(names)), dtype=np.int64)  # of a text, among all rows
    first[[end.rider for end in ends], [end.prompt for end in ends]] = lengths.cumsum() - lengths
    row_N = first[told["rider"], told["prompt"]] + told["pos"]
    marked = texts.token_flags([end.text for end in ends])
    own = RouterInput(*(told[name] for name in RouterInput._fields))
    decided = {name: told[name] for name in ("default_id", "small_id", "fused_id", "called")} | {
        "mismatch": told["fused_id"] != told["default_id"],
        "max_probability": routers.max_probability(own),
        "margin": routers.margin(own),
        "entropy": own.entropy_N,
        "score": _scores(told["rider"], own, riders),
    }
    columns = marked._asdict() | {name: _spread(row_N, x, marked.forced) for name, x in decided.items()}
    columns |= {
        "policy": np.repeat([riders[end.rider].policy.name for end in ends], lengths),
        "prompt_id": np.repeat([names[end.prompt] for end in ends], lengths),
        "pos": np.concatenate([np.arange(n) for n in lengths]),
        "token_id": np.concatenate([end.text.ids for end in ends]),
    }
    return pa.table({name: columns[name] for name in ROLLED.names}).cast(ROLLED)


def _scores(rider_N: np.ndarray, own: RouterInput, riders: list[PolicyRun]) -> np.ndarray:
    """What each decision's router made of it, nan of a router that scores nothing, [N]."""
    score_N = np.full(len(rider_N), np.nan, dtype=np.float32)
    for index in np.unique(rider_N):
        mine = np.flatnonzero(rider_N == index)
        found = riders[index].gate.score(own.take(mine))
        if found is not None:
            score_N[mine] = found
    return score_N


def _spread(row_N: np.ndarray, values_N: np.ndarray, forced: np.ndarray) -> pa.Array:
    """The values at their rows, null at forced ones and where there is none (nan)."""
    spread = np.zeros(len(forced), dtype=values_N.dtype)
    spread[row_N] = values_N
    return pa.array(spread, mask=forced | (spread != spread))


def text_rows(
    ends: list[FinishedText], riders: list[PolicyRun], prompts: dict[str, list[int]], until: StopRule
) -> pa.Table:
    """The finished texts, a row a turn."""
    names, rows = [*prompts], []
    for end in ends:
        name, policy = names[end.prompt], riders[end.rider].policy.name
        rows += [{"policy": policy, **row} for row in texts.text_rows(until, name, prompts[name], end.text)]
    return pa.Table.from_pylist(rows, schema=ROLLED_TEXTS)


def _alone(tokens: pa.Table, riders: list[PolicyRun]) -> dict[str, int]:
    """Role to model steps of one run per policy, in which helpers go as far as the last call."""
    reached = (pl.col("pos") <= pl.col("pos").filter("called").max()).sum()  # 0 where none is called
    rows = pl.from_arrow(tokens.select(["policy", "prompt_id", "pos", "called", "forced"]))
    chosen = rows.filter(~pl.col("forced")).group_by("policy", "prompt_id")
    lengths = chosen.agg(tokens=pl.len(), reached=reached).group_by("policy").agg(pl.sum("tokens", "reached"))
    methods, alone = {rider.policy.name: rider.method for rider in riders}, {}
    for policy, written, asked in lengths.iter_rows():
        rule = fusion.RULES[methods[policy].rule]
        for role in {rule.speaker, *rule.inputs}:
            alone[role] = alone.get(role, 0) + (written if role == rule.speaker else asked)
    return alone


def _taken(
    tokens: pa.Table, riders: list[PolicyRun], left: departure_pos, prompts: dict[str, list[int]]
) -> dict[str, np.ndarray]:
    """Role to generated and to prompt positions of its model, [2], where one tree holds all riders.

    Counted on the texts, so that it does not depend on which of them a tree wrote this time.
    """
    users = _users(riders)
    found = {role: np.zeros(2, np.int64) for role in users}
    for (name,), rows in _fed(tokens).partition_by("prompt_id", as_dict=True).items():
        fed = {policy: tuple(ids) for policy, ids in rows.select("policy", "fed").iter_rows()}
        for role, policies in users.items():
            starts: dict[FedTokens, set[FedTokens]] = defaultdict(set)
            for policy in policies:
                if (policy, name) in left:
                    starts[fed[policy][: left[policy, name]]].add(fed[policy])
            found[role] += _grown(starts, len(prompts[name]))
    return found


def _users(riders: list[PolicyRun]) -> dict[str, list[str]]:
    """Role to the policies that need its model, without roles that none needs."""
    needs = {rider.policy.name: fusion.RULES[rider.method.rule] for rider in riders}
    found = {
        role: [name for name, rule in needs.items() if role in (rule.speaker, *rule.inputs)]
        for role in ("small", "tuned", "large")
    }
    return {role: names for role, names in found.items() if names}


def _fed(tokens: pa.Table) -> pl.DataFrame:
    """policy, prompt_id and, as a list in `fed`, the Fed of every text."""
    rows = pl.from_arrow(tokens.select(["policy", "prompt_id", "token_id", "forced"]))
    token = pl.when("forced").then(-1 - pl.col("token_id")).otherwise("token_id")
    return rows.group_by("policy", "prompt_id").agg(token.shift(1, fill_value=0).alias("fed"))


def _grown(starts: dict[FedTokens, set[FedTokens]], prompt_tokens: int) -> tuple[int, int]:
    """Generated and prompt positions of a model on one prompt's branches, by what they start with."""
    # what another one starts with is read as a part of that, which in this order comes next
    begun = [a for a, b in pairwise([*sorted(starts), None]) if b is None or b[: len(a)] != a]
    read = [*chain(*begun)]
    for start, riders in starts.items():
        for before, text in pairwise([start, *sorted(riders)]):
            read += text[_shared(before, text) :]
    forced = sum(token < 0 for token in read)
    return len(read) - forced, forced + len(begun) * (prompt_tokens - 1)


def _shared(one: FedTokens, other: FedTokens) -> int:
    """With how many equal tokens two texts begin."""
    differ = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))
