"""From tokens to counts per prompt, in DuckDB: tokens, calls, mismatches, costs, verdicts.

Every query counts test prompts alone. A query is a chain of named steps (`with a as (...), b as (...)`), each
with its sentence; values such as $pair and $dataset are bound when it runs. Two steps recur: `turns` sums a
conversation's turns, `grades` joins their verdicts, both once for models and once for policies.
"""

from collections.abc import Iterable
from typing import NamedTuple

import duckdb
import polars as pl
import pyarrow as pa

from fsgen.analysis import policy_costs
from fsgen.analysis.costs import Shape
from fsgen.config.schema import Settings
from fsgen.models import description
from fsgen.tables import lake
from fsgen.tables.schemas.counts import POLICIES

INTEGERS = {field.name: pl.Int64 for field in POLICIES if pa.types.is_int64(field.type)}

TESTED = """
    -- the prompts that results count
    tested as (select prompt_id from prompts where dataset = $dataset and split = 'test')"""
# {key} is what wrote a text: model or policy
TURNS = """
    -- what a text's turns come to; the text is truncated if one of its turns is
    turns as (
        select {key}, prompt_id, sum(tokens)::bigint as rows, sum(answer_tokens)::bigint as answer_tokens,
               sum(prompt_tokens)::bigint as given, max(prompt_tokens) filter (turn = 1) as prompt_tokens,
               if(bool_or(finish_reason = 'length'), 'length', arg_max(finish_reason, turn)) as finish_reason
        from {texts} where dataset = $dataset and {where} and prompt_id in (from tested)
        group by all
    )"""
GRADES = """
    -- the last turn's verdict, and what a judge rated of all turns
    grades as (
        select {key}, prompt_id, arg_max(verdict, turn) as verdict, avg(rating) as rating,
               count(rating) as rated_turns, count(*) filter (outcome = 'unrated') as unrated_turns
        from {graded} where dataset = $dataset and {where} and prompt_id in (from tested)
        group by all
    )"""
OF_MODELS = {"key": "model", "where": "model in (select unnest($models))"}
OF_POLICIES = {"key": "policy", "where": "pair = $pair"}

MODEL_COUNTS = f"""
    with {TESTED},
    {TURNS.format(texts="generated_texts", **OF_MODELS)},
    {GRADES.format(graded="model_grades", **OF_MODELS)}
    select model, prompt_id, answer_tokens as tokens, finish_reason, verdict,
           rating, rated_turns, unrated_turns
    from turns join grades using (model, prompt_id) order by model, prompt_id
"""
ROLLED_COUNTS = f"""
    with {TESTED},
    -- every token that the pair's policies wrote
    written as not materialized (
        select * from rollout_tokens where pair = $pair and dataset = $dataset and prompt_id in (from tested)
    ),
    -- the position of each text's last call: the large model has read all that stands before it
    last_calls as (
        select policy, prompt_id, max(pos) filter (called) as last_call from written group by all
    ),
    -- ratios count the answer alone; costs count every position that the large model processed
    counted as (
        select policy, prompt_id,
               count(*) filter (in_answer) as tokens,
               count(*) filter (in_answer and called) as calls,
               count(*) filter (in_answer and mismatch) as mismatches,
               count(*) filter (in_answer and called and mismatch) as interventions,
               count(*) filter (in_answer and fused_id <> small_id) as mismatches_vs_small,
               count(*) filter (called) as large_forward_passes,
               count(*) filter (not from_template and pos <= last_call) as large_tokens_processed,
               count(*) filter (from_template and pos <= last_call) as given_before
        from written join last_calls using (policy, prompt_id) group by all
    ),
    {TURNS.format(texts="rollout_texts", **OF_POLICIES)},
    {GRADES.format(graded="policy_grades", **OF_POLICIES)}
    select $pair as pair, policy, prompt_id, counted.tokens, calls, mismatches, interventions,
           mismatches_vs_small, large_forward_passes, large_tokens_processed,
           -- the prompt's last token is the input of the first position: one less
           if(large_tokens_processed > 0, prompt_tokens - 1 + given_before, 0)
               as large_prompt_tokens_processed,
           rows, given, finish_reason, verdict,
           rating, rated_turns, unrated_turns
    from counted join turns using (policy, prompt_id) join grades using (policy, prompt_id)
    order by policy, prompt_id
"""
LARGE_TEXT_COUNTS = f"""
    with {TESTED}
    select pair, method, prompt_id, count(*) as tokens, count(*) filter (mismatch) as mismatches,
           count(*) filter (certified) as certified
    from fused_tokens
    where pair = $pair and dataset = $dataset and prompt_id in (from tested)
          and writer = 'large' and in_answer
    group by all
"""
ESTIMATE_COUNTS = f"""
    with {TESTED}
    select pair, policy, prompt_id, count(*) as tokens,
           count(*) filter (called) as calls, count(*) filter (called and mismatch) as interventions,
           count(*) filter (on_policy) as on_policy, count(*) filter (certified) as certified
    from simulated_tokens
    where pair = $pair and dataset = $dataset and prompt_id in (from tested) and in_answer
    group by all
"""
STEP_COUNTS = """
    select pair, role, sum(shared_steps)::bigint as shared_steps,
           sum(separate_steps)::bigint as separate_steps
    from model_steps where dataset = $dataset and pair in (select unnest($pairs)) group by all order by all
"""
DRAFTED_ROWS = f"""
    with {TESTED},
    -- the position behind each turn of the large model's text, tokens after its stop left out
    ends as (
        select prompt_id, turn, sum(tokens - tokens_after_stop + if(turn > 1, prompt_tokens, 0))
               over (partition by prompt_id order by turn) as ended
        from generated_texts where model = $model and dataset = $dataset
    )
    select prompt_id, turn, pos, mismatch, in_answer
    from fused_tokens join ends using (prompt_id, turn)
    where pair = $pair and dataset = $dataset and prompt_id in (from tested)
          and writer = 'large' and method = $method and not from_template and pos < ended
    order by prompt_id, pos
"""
LARGE_TURNS = f"""
    with {TESTED}
    select prompt_id, turn, prompt_tokens, tokens - tokens_after_stop as written
    from generated_texts where model = $model and dataset = $dataset and prompt_id in (from tested)
    order by prompt_id, turn
"""


class Counts(NamedTuple):
    """Counts per test prompt, from which every reported number follows; a table each."""

    policies: pl.DataFrame
    large_texts: pl.DataFrame
    models: pl.DataFrame
    estimates: pl.DataFrame
    steps: pl.DataFrame


def count_policies(settings: Settings, dataset: str) -> Counts:
    """Counts per test prompt of every pair and model that params.yaml names."""
    connection = lake.connect()
    shapes = {name: policy_costs.shape(description.read_description(name)) for name in settings.models}
    models = _run(connection, MODEL_COUNTS, dataset=dataset, models=[*settings.models])
    policies, large_texts, estimates = [], [], []
    for pair, entry in settings.pairs.items():
        large = models.filter(model=entry.large)
        policies.append(_count_written(connection, settings, pair, dataset, shapes))
        policies.append(_count_drafted(connection, settings, pair, dataset, shapes, large))
        large_texts.append(_run(connection, LARGE_TEXT_COUNTS, pair=pair, dataset=dataset))
        estimates.append(_run(connection, ESTIMATE_COUNTS, pair=pair, dataset=dataset))
    return Counts(
        pl.concat(policies).sort("pair", "policy", "prompt_id"),
        pl.concat(large_texts).sort("pair", "method", "prompt_id"),
        models,
        pl.concat(estimates).sort("pair", "policy", "prompt_id"),
        _run(connection, STEP_COUNTS, dataset=dataset, pairs=[*settings.pairs]),
    )


def _run(connection: duckdb.DuckDBPyConnection, sql: str, **values: str | Iterable[str]) -> pl.DataFrame:
    """The rows of a query; `values` are what its $names stand for."""
    return connection.sql(sql, params=values).pl()


def _count_written(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    pair: str,
    dataset: str,
    shapes: dict[str, Shape],
) -> pl.DataFrame:
    """Rows of POLICIES for the policies that wrote their own texts."""
    counts = _run(connection, ROLLED_COUNTS, pair=pair, dataset=dataset)
    counts = counts.filter(pl.col("policy").is_in([policy.name for policy in settings.policies_of(pair)]))
    counts = counts.with_columns(flops=policy_costs.rolled_flops(settings, pair, counts, shapes))
    return counts.select(POLICIES.names).cast(INTEGERS)


def _count_drafted(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    pair: str,
    dataset: str,
    shapes: dict[str, Shape],
    large: pl.DataFrame,
) -> pl.DataFrame:
    """Rows of POLICIES for policies that draft: arithmetic on the large model's own text, which they write.

    `large` are that model's counts.
    """
    members = settings.pairs[pair].roles()
    of_text = {"dataset": dataset, "model": members["large"]}
    turns = _run(connection, LARGE_TURNS, **of_text)
    drafting = [policy for policy in settings.policies_of(pair) if policy.draft is not None]
    rows = {
        method: _run(connection, DRAFTED_ROWS, pair=pair, method=method, **of_text)
        for method in dict.fromkeys(policy.method for policy in drafting)
    }
    parts = [pl.from_arrow(POLICIES.empty_table())]
    for policy in drafting:
        costs = policy_costs.speculate(
            rows[policy.method], turns, policy.draft, shapes[members["small"]], shapes[members["large"]]
        )
        counts = large.join(costs, on="prompt_id", validate="1:1")
        counts = counts.with_columns(pair=pl.lit(pair), policy=pl.lit(policy.name))
        parts.append(counts.select(POLICIES.names).cast(INTEGERS))
    return pl.concat(parts)
