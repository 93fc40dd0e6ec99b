"""From tokens to counts per prompt, in DuckDB: tokens, calls, mismatches, costs, verdicts.

Shape legend: N rows, T texts.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen import checkpoints, costs, fusion, lake, store
from fsgen.policies import Policy
from fsgen.settings import Settings

COSTS = [
    ("large_passes", pa.int64(), "forward calls of the large model"),
    ("large_positions", pa.int64(), "generated positions it processed, rejected drafts and catching up too"),
    ("large_prompt_positions", pa.int64(), "prompt less its last token, or 0 if never called"),
    ("flops", pa.float64(), "floating-point operations of all models on this text"),
]  # fmt: skip
POLICIES = store.schema(
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
        ("finish_reason", pa.string(), "eos, stop or length"),
        ("verdict", pa.string(), "right, wrong or unknown"),
    ]
)
INTEGERS = {field.name: pl.Int64 for field in POLICIES if pa.types.is_int64(field.type)}
LARGE_TEXTS = store.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("method", pa.string(), "method"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "answer tokens of the large model's own text"),
        ("mismatches", pa.int64(), "those where fused and default token differ"),
        ("certified", pa.int64(), "those whose fused token is proven over the full vocabulary"),
    ]
)
MODELS = store.schema(
    [
        ("model", pa.string(), "model, a key of params.yaml"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "answer tokens of its own text"),
        ("finish_reason", pa.string(), "eos, stop or length"),
        ("verdict", pa.string(), "right, wrong or unknown"),
    ]
)
ESTIMATES = store.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("policy", pa.string(), "policy"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "answer tokens of the default speaker's text"),
        ("calls", pa.int64(), "those at which the router calls"),
        ("on_text", pa.int64(), "those that the policy's own text shares"),
        ("certified", pa.int64(), "those whose fused token is proven over the full vocabulary"),
    ]
)
STEPS = store.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("role", pa.string(), "small, tuned or large"),
        ("taken", pa.int64(), "generated positions that its model processed in the rollout"),
        ("alone", pa.int64(), "those that it would process if every policy wrote by itself"),
    ]
)


class Tally(NamedTuple):
    """Counts per test prompt, from which every reported number follows."""

    policies: pl.DataFrame
    large_texts: pl.DataFrame
    models: pl.DataFrame
    estimates: pl.DataFrame
    steps: pl.DataFrame


def tally(settings: Settings, dataset: str) -> Tally:
    """Counts per test prompt of every pair and model that params.yaml names."""
    lake_ = lake.connect()
    tests = f"(select prompt_id from prompts where dataset = '{dataset}' and split = 'test')"
    shapes = {name: checkpoints.read_description(name) for name in settings.models}
    policies, large_texts, estimates = [], [], []
    for pair in settings.pairs:
        here = f"pair = '{pair}' and dataset = '{dataset}' and prompt_id in {tests}"
        policies.append(_rolled(lake_, settings, pair, here, shapes))
        policies.append(_speculated(lake_, settings, pair, dataset, here, shapes))
        large_texts.append(lake_.sql(LARGE_TEXT_COUNTS.format(here=here)).pl())
        estimates.append(lake_.sql(ESTIMATE_COUNTS.format(here=here)).pl())
    names, pairs = (", ".join(f"'{name}'" for name in entry) for entry in (settings.models, settings.pairs))
    steps = lake_.sql(STEP_COUNTS.format(dataset=dataset, pairs=pairs)).pl()
    models = lake_.sql(MODEL_COUNTS.format(dataset=dataset, names=names, tests=tests)).pl()
    return Tally(
        pl.concat(policies).sort("pair", "policy", "prompt_id"),
        pl.concat(large_texts).sort("pair", "method", "prompt_id"),
        models.sort("model", "prompt_id"),
        pl.concat(estimates).sort("pair", "policy", "prompt_id"),
        steps,
    )


ROLLED_COUNTS = """
    select pair, policy, prompt_id, t.tokens, calls, mismatches, interventions, small_mismatches,
           called_rows, last_call, x.tokens as rows, prompt_tokens, finish_reason, verdict
    from (
        select pair, policy, prompt_id,
               count(*) filter (in_answer) as tokens,
               count(*) filter (in_answer and called) as calls,
               count(*) filter (in_answer and mismatch) as mismatches,
               count(*) filter (in_answer and called and mismatch) as interventions,
               count(*) filter (in_answer and fused_id <> small_id) as small_mismatches,
               count(*) filter (called) as called_rows,
               coalesce(max(pos) filter (called), -1) as last_call
        from rolled where {here} group by all
    ) t
    join (select policy, prompt_id, tokens, prompt_tokens, finish_reason from rolled_texts where {here}) x
        using (policy, prompt_id)
    join (select policy, prompt_id, verdict from graded where {here}) using (policy, prompt_id)
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
           count(*) filter (called) as calls, count(*) filter (on_text) as on_text,
           count(*) filter (certificate = 'exact') as certified
    from routed where {here} and in_answer group by all
"""
STEP_COUNTS = """
    select pair, role, sum(taken)::bigint as taken, sum(alone)::bigint as alone
    from steps where dataset = '{dataset}' and pair in ({pairs}) group by all order by all
"""
MODEL_COUNTS = """
    select model, prompt_id, answer_tokens as tokens, finish_reason, verdict
    from solo_texts join graded_solo using (model, dataset, prompt_id)
    where dataset = '{dataset}' and model in ({names}) and prompt_id in {tests}
"""
SPECULATED_ROWS = """
    select prompt_id, pos, mismatch, in_answer
    from fused join (
        select pair, dataset, prompt_id, tokens - tail as written from solo_texts, (select '{pair}' as pair)
        where model = '{model}'
    ) using (pair, dataset, prompt_id)
    where {here} and writer = 'large' and method = '{method}' and pos < written order by prompt_id, pos
"""
LARGE_ALONE = """
    select prompt_id, prompt_tokens, finish_reason, verdict
    from solo_texts join graded_solo using (model, dataset, prompt_id)
    where dataset = '{dataset}' and model = '{model}' and prompt_id in
        (select prompt_id from prompts where dataset = '{dataset}' and split = 'test')
    order by prompt_id
"""


def _rolled(lake_, settings: Settings, pair: str, here: str, shapes: dict) -> pl.DataFrame:
    """Tallies of the policies that wrote their own texts."""
    counts = lake_.sql(ROLLED_COUNTS.format(here=here)).pl()
    named = [policy.name for policy in settings.policies_of(pair)]
    counts = counts.filter(pl.col("policy").is_in(named))
    prompt_T = counts["prompt_tokens"].to_numpy() - 1
    reached_T = counts["last_call"].to_numpy() + 1
    counts = counts.with_columns(
        large_passes=pl.col("called_rows"),
        large_positions=reached_T,
        large_prompt_positions=np.where(reached_T > 0, prompt_T, 0),
        flops=_rolled_flops(settings, pair, counts, prompt_T, reached_T, shapes),
    )
    return counts.select(POLICIES.names).cast(INTEGERS)


def _rolled_flops(settings, pair, counts: pl.DataFrame, prompt_T, reached_T, shapes) -> np.ndarray:
    """The speaker processes all rows; the large model, and for proxy the small one, as far as called."""
    members = settings.pairs[pair].members()
    called_prompt_T = np.where(reached_T > 0, prompt_T, 0)
    rows_T = counts["rows"].to_numpy()
    methods = {policy.name: settings.methods[policy.method] for policy in settings.policies_of(pair)}
    speaks = np.array([fusion.speaker(methods[name]) for name in counts["policy"]])
    total_T = costs.flops(_shape(shapes[members["large"]]), called_prompt_T, reached_T)
    for role in set(speaks):
        every_T = costs.flops(_shape(shapes[members[role]]), prompt_T, rows_T)
        helper_T = costs.flops(_shape(shapes[members["small"]]), called_prompt_T, reached_T)
        spent_T = every_T + (helper_T if role == "tuned" else 0.0)
        total_T = total_T + np.where(speaks == role, spent_T, 0.0)
    return total_T


def _shape(about: dict) -> costs.Shape:
    sizes, shape = about["parameters"], about["shape"]
    return costs.Shape(sizes["non_embedding"], sizes["head"], shape["layers"], shape["width"])


def _speculated(lake_, settings: Settings, pair: str, dataset: str, here: str, shapes: dict) -> pl.DataFrame:
    """Tallies of `speculative@K`: arithmetic on the large model's own text, whose tokens it writes."""
    members = settings.pairs[pair].members()
    alone = lake_.sql(LARGE_ALONE.format(dataset=dataset, model=members["large"])).pl()
    parts = [pl.from_arrow(POLICIES.empty_table())]
    for policy in settings.policies_of(pair):
        if policy.draft is not None:
            query = SPECULATED_ROWS.format(here=here, pair=pair, model=members["large"], method=policy.method)
            rows = lake_.sql(query).pl()
            models = (shapes[members[role]] for role in ("small", "large"))
            parts.append(_speculate(pair, policy, rows, alone, *models))
    return pl.concat(parts)


def _speculate(
    pair: str, policy: Policy, rows: pl.DataFrame, alone: pl.DataFrame, small, large
) -> pl.DataFrame:
    text_N = rows["prompt_id"].rank("dense").to_numpy() - 1
    rounds = costs.speculative_rounds(rows["mismatch"].to_numpy(), text_N, policy.draft)
    spent = costs.verified(rounds, alone["prompt_tokens"].to_numpy())
    counts = rows.group_by("prompt_id", maintain_order=True).agg(
        tokens=pl.col("in_answer").sum(), mismatches=(pl.col("in_answer") & pl.col("mismatch")).sum()
    )
    begins_R = np.searchsorted(text_N, rounds.text_R) + rounds.start_R
    counted_R = rows["in_answer"].to_numpy()[begins_R]
    return (
        alone.join(counts, on="prompt_id", validate="1:1", maintain_order="left")
        .with_columns(
            pair=pl.lit(pair),
            policy=pl.lit(policy.name),
            calls=np.bincount(rounds.text_R, weights=counted_R, minlength=len(alone)),
            interventions=pl.col("mismatches"),
            small_mismatches=pl.col("mismatches"),
            large_passes=spent.passes_T,
            large_positions=spent.positions_T,
            large_prompt_positions=spent.prompt_positions_T,
            flops=costs.speculative_flops(
                _shape(small), _shape(large), rounds, alone["prompt_tokens"].to_numpy()
            ),
        )
        .select(POLICIES.names)
        .cast(INTEGERS)
    )
