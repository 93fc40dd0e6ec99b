"""From tokens to counts per prompt, in DuckDB: tokens, calls, mismatches, costs, verdicts."""

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from fsgen.analysis import policy_costs
from fsgen.config.schema import Settings
from fsgen.models import description
from fsgen.tables import lake, parquet

RATINGS = [
    ("rating", pa.float64(), "mean of a judge's ratings of the turns, 1 to 10; null without any"),
    ("rated", pa.int64(), "turns with a rating"),
    ("unrated", pa.int64(), "turns of which the judge said something, but no rating"),
]
COSTS = [
    ("large_passes", pa.int64(), "forward calls of the large model"),
    ("large_positions", pa.int64(), "generated positions it processed, rejected drafts and catching up too"),
    ("large_prompt_positions", pa.int64(), "of the prompt and later questions, as far as it was called"),
    ("flops", pa.float64(), "floating-point operations of all models on this text"),
]  # fmt: skip
POLICIES = parquet.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("policy", pa.string(), "policy"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "tokens of the answer: the denominator of every ratio"),
        ("calls", pa.int64(), "answer tokens at which the large model was called; rounds, for speculative"),
        ("mismatches", pa.int64(), "answer tokens where fused and default token differ"),
        ("interventions", pa.int64(), "calls that changed the token"),
        ("small_mismatches", pa.int64(), "answer tokens where fused and small model's token differ"),
        *COSTS,
        ("finish_reason", pa.string(), "eos, stop or length; length if any turn was cut off"),
        ("verdict", pa.string(), "right, wrong or unknown; null where a judge rates instead"),
        *RATINGS,
    ]
)
INTEGERS = {field.name: pl.Int64 for field in POLICIES if pa.types.is_int64(field.type)}
LARGE_TEXTS = parquet.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("method", pa.string(), "method"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "answer tokens of the large model's own text"),
        ("mismatches", pa.int64(), "those where fused and default token differ"),
        ("certified", pa.int64(), "those whose fused token is proven over the full vocabulary"),
    ]
)
MODELS = parquet.schema(
    [
        ("model", pa.string(), "model, a key of params.yaml"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "answer tokens of its own text"),
        ("finish_reason", pa.string(), "eos, stop or length; length if any turn was cut off"),
        ("verdict", pa.string(), "right, wrong or unknown; null where a judge rates instead"),
        *RATINGS,
    ]
)
ESTIMATES = parquet.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("policy", pa.string(), "policy"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "answer tokens of the default speaker's text"),
        ("calls", pa.int64(), "those at which the router calls"),
        ("interventions", pa.int64(), "those of the calls that change the token"),
        ("on_text", pa.int64(), "those that the policy's own text shares"),
        ("certified", pa.int64(), "those whose fused token is proven over the full vocabulary"),
    ]
)
STEPS = parquet.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("role", pa.string(), "small, tuned or large"),
        ("taken", pa.int64(), "generated positions that its model processed in the rollout"),
        ("alone", pa.int64(), "those that it would process if every policy wrote by itself"),
    ]
)


class Counts(NamedTuple):
    """Counts per test prompt, from which every reported number follows."""

    policies: pl.DataFrame
    large_texts: pl.DataFrame
    models: pl.DataFrame
    estimates: pl.DataFrame
    steps: pl.DataFrame


def count_policies(settings: Settings, dataset: str) -> Counts:
    """Counts per test prompt of every pair and model that params.yaml names."""
    lake_ = lake.connect()
    tests = f"(select prompt_id from prompts where dataset = '{dataset}' and split = 'test')"
    shapes = {name: policy_costs.shape(description.read_description(name)) for name in settings.models}
    models = _alone(lake_, dataset, settings.models, tests)
    policies, large_texts, estimates = [], [], []
    for pair, entry in settings.pairs.items():
        here = f"pair = '{pair}' and dataset = '{dataset}' and prompt_id in {tests}"
        large = models.filter(model=entry.large)
        policies.append(_rolled(lake_, settings, pair, here, shapes))
        policies.append(_speculated(lake_, settings, pair, dataset, here, shapes, large))
        large_texts.append(lake_.sql(LARGE_TEXT_COUNTS.format(here=here)).pl())
        estimates.append(lake_.sql(ESTIMATE_COUNTS.format(here=here)).pl())
    steps = lake_.sql(STEP_COUNTS.format(dataset=dataset, pairs=_quoted(settings.pairs))).pl()
    return Counts(
        pl.concat(policies).sort("pair", "policy", "prompt_id"),
        pl.concat(large_texts).sort("pair", "method", "prompt_id"),
        models,
        pl.concat(estimates).sort("pair", "policy", "prompt_id"),
        steps,
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


# what a prompt's turns amount to: a text is truncated if one of its turns is
TURNS = """
    select {keys}, sum(tokens)::bigint as rows, sum(answer_tokens)::bigint as answer_tokens,
           sum(prompt_tokens)::bigint as given, max(prompt_tokens) filter (turn = 1) as prompt_tokens,
           if(bool_or(finish_reason = 'length'), 'length', arg_max(finish_reason, turn)) as finish_reason
    from {texts} where {here} group by all
"""
GRADES = """
    select {keys}, arg_max(verdict, turn) as verdict, avg(rating) as rating, count(rating) as rated,
           count(*) filter (outcome = 'unrated') as unrated
    from {graded} where {here} group by all
"""
ROLLED_COUNTS = """
    select pair, policy, prompt_id, t.tokens, calls, mismatches, interventions, small_mismatches,
           called_rows, reached, given_before, rows, given, prompt_tokens, finish_reason,
           verdict, rating, rated, unrated
    from (
        select pair, policy, prompt_id,
               count(*) filter (in_answer) as tokens,
               count(*) filter (in_answer and called) as calls,
               count(*) filter (in_answer and mismatch) as mismatches,
               count(*) filter (in_answer and called and mismatch) as interventions,
               count(*) filter (in_answer and fused_id <> small_id) as small_mismatches,
               count(*) filter (called) as called_rows,
               count(*) filter (not forced and pos <= last_call) as reached,
               count(*) filter (forced and pos <= last_call) as given_before
        from rolled join (
            select policy, prompt_id, max(pos) filter (called) as last_call
            from rolled where {here} group by all
        ) using (policy, prompt_id) where {here} group by all
    ) t join ({turns}) using (policy, prompt_id) join ({grades}) using (policy, prompt_id)
    order by policy, prompt_id
"""
LARGE_TEXT_COUNTS = """
    select pair, method, prompt_id, count(*) as tokens,
           count(*) filter (mismatch) as mismatches,
           count(*) filter (certificate = 'exact') as certified
    from fused where {here} and writer = 'large' and in_answer group by all
"""
ESTIMATE_COUNTS = """
    select pair, policy, prompt_id, count(*) as tokens,
           count(*) filter (called) as calls, count(*) filter (called and mismatch) as interventions,
           count(*) filter (on_text) as on_text,
           count(*) filter (certificate = 'exact') as certified
    from routed where {here} and in_answer group by all
"""
STEP_COUNTS = """
    select pair, role, sum(taken)::bigint as taken, sum(alone)::bigint as alone
    from steps where dataset = '{dataset}' and pair in ({pairs}) group by all order by all
"""
MODEL_COUNTS = """
    select model, prompt_id, answer_tokens as tokens, finish_reason, verdict, rating, rated, unrated
    from ({turns}) join ({grades}) using (model, prompt_id) order by model, prompt_id
"""
SPECULATED_ROWS = """
    select prompt_id, turn, pos, mismatch, in_answer
    from fused join (
        select prompt_id, turn, sum(tokens - tail + if(turn > 1, prompt_tokens, 0))
               over (partition by prompt_id order by turn) as ended
        from solo_texts where model = '{model}' and dataset = '{dataset}'
    ) using (prompt_id, turn)
    where {here} and writer = 'large' and method = '{method}' and not forced and pos < ended
    order by prompt_id, pos
"""
LARGE_TURNS = """
    select prompt_id, turn, prompt_tokens, tokens - tail as written from solo_texts
    join (select prompt_id from prompts where dataset = '{dataset}' and split = 'test') using (prompt_id)
    where model = '{model}' and dataset = '{dataset}' order by prompt_id, turn
"""


def _alone(lake_, dataset: str, models: Iterable[str], tests: str) -> pl.DataFrame:
    """Tallies of the models that wrote alone."""
    here = f"dataset = '{dataset}' and model in ({_quoted(models)}) and prompt_id in {tests}"
    turns = TURNS.format(keys="model, prompt_id", texts="solo_texts", here=here)
    grades = GRADES.format(keys="model, prompt_id", graded="graded_solo", here=here)
    return lake_.sql(MODEL_COUNTS.format(turns=turns, grades=grades)).pl()


def _rolled(lake_, settings: Settings, pair: str, here: str, shapes: dict) -> pl.DataFrame:
    """Tallies of the policies that wrote their own texts."""
    turns = TURNS.format(keys="policy, prompt_id", texts="rolled_texts", here=here)
    grades = GRADES.format(keys="policy, prompt_id", graded="graded", here=here)
    counts = lake_.sql(ROLLED_COUNTS.format(here=here, turns=turns, grades=grades)).pl()
    counts = counts.filter(pl.col("policy").is_in([p.name for p in settings.policies_of(pair)]))
    asked = pl.col("prompt_tokens") - 1 + pl.col("given_before")
    counts = counts.with_columns(
        large_passes=pl.col("called_rows"),
        large_positions=pl.col("reached"),
        large_prompt_positions=pl.when(pl.col("reached") > 0).then(asked).otherwise(0),
    )
    counts = counts.with_columns(flops=policy_costs.rolled_flops(settings, pair, counts, shapes))
    return counts.select(POLICIES.names).cast(INTEGERS)


def _speculated(
    lake_, settings: Settings, pair: str, dataset: str, here: str, shapes: dict, large: pl.DataFrame
) -> pl.DataFrame:
    """Tallies of `speculative@K`: arithmetic on the large model's own text, whose tokens it writes."""
    members = settings.pairs[pair].members()
    source = {"here": here, "model": members["large"], "dataset": dataset}
    turns = lake_.sql(LARGE_TURNS.format(**source)).pl()
    models = [shapes[members[role]] for role in ("small", "large")]
    drafting = [policy for policy in settings.policies_of(pair) if policy.draft is not None]
    parts = [pl.from_arrow(POLICIES.empty_table())]
    for method in dict.fromkeys(policy.method for policy in drafting):
        rows = lake_.sql(SPECULATED_ROWS.format(method=method, **source)).pl()
        for policy in (policy for policy in drafting if policy.method == method):
            spent = policy_costs.speculate(rows, turns, policy.draft, *models)
            named = large.join(spent, on="prompt_id", validate="1:1").with_columns(
                pair=pl.lit(pair), policy=pl.lit(policy.name)
            )
            parts.append(named.select(POLICIES.names).cast(INTEGERS))
    return pl.concat(parts)
