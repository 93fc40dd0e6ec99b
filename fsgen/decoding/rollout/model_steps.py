"""The table `steps`: positions that each model processes on a prefix tree, and without one.

They are counted on the finished texts, so that they do not depend on which texts a tree wrote this time and
which an earlier run had written. The numbers equal those of the models' caches if one tree writes them all.

Example: two policies left the dumped texts after the token "a" and wrote "a b c" and "a b d". A model is fed
[0 a b] for both, where 0 stands for the prompt's last token: three positions on the tree, six without it.
"""

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from fsgen.decoding.rollout.runs import PolicyRun
from fsgen.tables.schemas.dumps import STEPS

ROLES = ("small", "tuned", "large")
FedTokens = tuple[int, ...]
"""What a model is fed of a text: 0 for the prompt's last token, then all tokens but the last.

Forced tokens are written as -1 - id, so that they count as prompt positions.
"""


class Positions(NamedTuple):
    """Positions that a model processes."""

    generated: int
    prompt: int


def model_steps(
    tokens: pa.Table,
    runs: list[PolicyRun],
    departure_pos: dict[tuple[str, str], int],
    prompts: dict[str, list[int]],
) -> pa.Table:
    """The table `steps` of a shard, one row for each role whose model some policy requires.

    `tokens` are rows of ROLLOUT_TOKENS. `departure_pos` maps policy and prompt id to the position where the
    text left the dumped ones; texts that never did take no steps. `prompts` maps prompt ids to tokens.
    """
    shared, separate = _shared_positions(tokens, runs, departure_pos, prompts), _separate_steps(tokens, runs)
    rows = [(role, total.generated, separate[role], total.prompt) for role, total in shared.items()]
    return pl.DataFrame(rows, schema=STEPS.names, orient="row").to_arrow().cast(STEPS)


def _separate_steps(tokens: pa.Table, runs: list[PolicyRun]) -> dict[str, int]:
    """Role to generated positions if every policy writes by itself.

    Its default model then processes every position, and the others go as far as its last call.
    """
    rows = pl.from_arrow(tokens.select(["policy", "prompt_id", "pos", "called", "from_template"]))
    up_to_last_call = (pl.col("pos") <= pl.col("pos").filter("called").max()).sum()  # 0 without a call
    per_text = rows.filter(~pl.col("from_template")).group_by("policy", "prompt_id")
    per_text = per_text.agg(tokens=pl.len(), up_to_last_call=up_to_last_call)
    rules = {run.name: run.method.definition for run in runs}
    steps: dict[str, int] = defaultdict(int)
    per_policy = per_text.group_by("policy").agg(pl.sum("tokens", "up_to_last_call"))
    for policy, written, called in per_policy.iter_rows():
        for role in rules[policy].requires:
            steps[role] += written if role == rules[policy].default_role else called
    return steps


def _shared_positions(
    tokens: pa.Table,
    runs: list[PolicyRun],
    departure_pos: dict[tuple[str, str], int],
    prompts: dict[str, list[int]],
) -> dict[str, Positions]:
    """Role to positions of its model if one tree continues all texts that left the dumped ones."""
    policies_of = _policies_by_role(runs)
    totals = dict.fromkeys(policies_of, Positions(0, 0))
    for (prompt_id,), rows in _fed_tokens(tokens).partition_by("prompt_id", as_dict=True).items():
        fed = {policy: tuple(ids) for policy, ids in rows.select("policy", "fed").iter_rows()}
        for role, policies in policies_of.items():
            continued: dict[FedTokens, set[FedTokens]] = defaultdict(set)
            for policy in policies:
                if (policy, prompt_id) in departure_pos:
                    start = fed[policy][: departure_pos[policy, prompt_id]]
                    continued[start].add(fed[policy])
            read = count_positions(continued, len(prompts[prompt_id]))
            totals[role] = Positions(*map(sum, zip(totals[role], read, strict=True)))
    return totals


def _policies_by_role(runs: list[PolicyRun]) -> dict[str, list[str]]:
    """Role to the policies that require its model, without roles that none requires."""
    policies = {role: [run.name for run in runs if role in run.method.definition.requires] for role in ROLES}
    return {role: names for role, names in policies.items() if names}


def _fed_tokens(tokens: pa.Table) -> pl.DataFrame:
    """policy, prompt_id and, as a list in `fed`, the FedTokens of every text."""
    rows = pl.from_arrow(tokens.select(["policy", "prompt_id", "token_id", "from_template"]))
    token = pl.when("from_template").then(-1 - pl.col("token_id")).otherwise("token_id")
    return rows.group_by("policy", "prompt_id").agg(token.shift(1, fill_value=0).alias("fed"))


def count_positions(continued: dict[FedTokens, set[FedTokens]], prompt_tokens: int) -> Positions:
    """Positions of a model on the branches of one prompt; `continued` maps starts to texts that go on there.

    The prompt is read once for every start that no other start begins with, since a start that another one
    begins with is read as a part of that.
    """
    read = []
    prefilled = [a for a, b in pairwise([*sorted(continued), None]) if b is None or b[: len(a)] != a]
    for start in prefilled:
        read += start
    for start, texts in continued.items():
        for previous, text in pairwise([start, *sorted(texts)]):
            read += text[_common_prefix(previous, text) :]
    from_template = sum(token < 0 for token in read)
    return Positions(len(read) - from_template, from_template + len(prefilled) * (prompt_tokens - 1))


def _common_prefix(one: FedTokens, other: FedTokens) -> int:
    """The number of equal tokens at the beginning of both."""
    differs = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differs, min(len(one), len(other)))
