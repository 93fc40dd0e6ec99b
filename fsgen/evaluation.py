"""From tokens to numbers: DuckDB counts per prompt, then ratios, costs and accuracies with intervals.

Shape legend: P prompts (the unit of every interval), N rows, T texts.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen import checkpoints, console, costs, fusion, intervals, lake, store
from fsgen.settings import Policy, Settings

COSTS = [
    ("large_passes", pa.int64(), "forward calls of the large model"),
    ("large_positions", pa.int64(), "generated positions that the large model processed, rejected drafts and catching up included"),
    ("large_prompt_positions", pa.int64(), "prompt positions that it processed: the prompt less its last token, 0 if never called"),
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
        (
            "small_mismatches",
            pa.int64(),
            "answer tokens where the fused token differs from the small model's",
        ),
        *COSTS,
        ("finish_reason", pa.string(), "eos, stop or length"),
        ("verdict", pa.string(), "right, wrong or unknown"),
    ]
)
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
    ]
)


class Tally(NamedTuple):
    """Counts per test prompt, from which every reported number follows."""

    policies: pl.DataFrame
    large_texts: pl.DataFrame
    models: pl.DataFrame
    estimates: pl.DataFrame


def evaluate(settings: Settings, dataset: str) -> None:
    """Write data/evaluated/<dataset>/*.parquet (counts) and metrics/<dataset>.json (numbers)."""
    settings.named("datasets", dataset)
    counted = tally(settings, dataset)
    out = Path("data/evaluated") / dataset
    with store.appear(out) as folder:
        schemas = (POLICIES, LARGE_TEXTS, MODELS, ESTIMATES)
        for name, table, schema in zip(Tally._fields, counted, schemas, strict=True):
            store.write(folder / f"{name}.parquet", table, schema)
    path = Path("metrics") / f"{dataset}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(summarise(settings, counted), indent=2) + "\n")
    pairs, policies = len(settings.pairs), counted.policies["policy"].n_unique()
    console.wrote(f"{path}: {pairs} pairs and {policies} policies on {dataset}, counts per prompt in {out}")


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
    names = ", ".join(f"'{name}'" for name in settings.models)
    models = lake_.sql(MODEL_COUNTS.format(dataset=dataset, names=names, tests=tests)).pl()
    return Tally(
        pl.concat(policies).sort("pair", "policy", "prompt_id"),
        pl.concat(large_texts).sort("pair", "method", "prompt_id"),
        models.sort("model", "prompt_id"),
        pl.concat(estimates).sort("pair", "policy", "prompt_id"),
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
           count(*) filter (called) as calls, count(*) filter (on_text) as on_text
    from routed where {here} and in_answer group by all
"""
MODEL_COUNTS = """
    select model, prompt_id, answer_tokens as tokens, finish_reason, verdict
    from solo_texts join graded_solo using (model, dataset, prompt_id)
    where dataset = '{dataset}' and model in ({names}) and prompt_id in {tests}
"""
SPECULATED_ROWS = """
    select prompt_id, pos, mismatch, in_answer
    from fused where {here} and writer = 'large' and method = '{method}' order by prompt_id, pos
"""
LARGE_ALONE = """
    select prompt_id, tokens, answer_tokens, prompt_tokens, finish_reason, verdict
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
    return counts.select(POLICIES.names).cast(dict.fromkeys(_integers(), pl.Int64))


def _integers() -> list[str]:
    return [field.name for field in POLICIES if pa.types.is_int64(field.type)]


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
    parts = [pl.DataFrame(schema={name: pl.Int64 for name in POLICIES.names}).clear()][:0]
    for policy in settings.policies_of(pair):
        if policy.draft is not None:
            rows = lake_.sql(SPECULATED_ROWS.format(here=here, method=policy.method)).pl()
            parts.append(
                _speculate(pair, policy, rows, alone, *(shapes[members[r]] for r in ("small", "large")))
            )
    return pl.concat(parts) if parts else _empty(POLICIES)


def _empty(schema: pa.Schema) -> pl.DataFrame:
    return pl.from_arrow(schema.empty_table())


def _speculate(
    pair: str, policy: Policy, rows: pl.DataFrame, alone: pl.DataFrame, small, large
) -> pl.DataFrame:
    text_N = rows["prompt_id"].rank("dense").to_numpy() - 1
    rounds = costs.speculative_rounds(rows["mismatch"].to_numpy(), text_N, policy.draft)
    spent = costs.verified(rounds, alone["prompt_tokens"].to_numpy())
    counts = rows.group_by("prompt_id", maintain_order=True).agg(
        tokens=pl.col("in_answer").sum(), mismatches=(pl.col("in_answer") & pl.col("mismatch")).sum()
    )
    return (
        alone.drop("tokens")
        .join(counts, on="prompt_id", validate="1:1", maintain_order="left")
        .with_columns(
            pair=pl.lit(pair),
            policy=pl.lit(policy.name),
            calls=spent.passes_T,
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
        .cast(dict.fromkeys(_integers(), pl.Int64))
    )


def summarise(settings: Settings, counted: Tally) -> dict:
    """The content of metrics/<dataset>.json.

    Accuracies carry Wilson intervals over prompts, ratios a BCa cluster bootstrap over prompts, all
    at 95 %. `unknown` verdicts count as not right.
    """
    return {
        "models": {name: _model_numbers(name, counted) for name in settings.models},
        "pairs": {name: _pair_numbers(settings, name, counted) for name in settings.pairs},
    }


def _model_numbers(name: str, counted: Tally) -> dict:
    rows = counted.models.filter(pl.col("model") == name)
    sizes = checkpoints.read_description(name)["parameters"]
    return _accuracy(rows) | {
        "parameters": sizes["non_embedding"],
        "total_parameters": sizes["total"],
        "tokens": int(rows["tokens"].sum()),
        "truncated_share": _rounded((rows["finish_reason"] == "length").mean()),
        "unknown_share": _rounded((rows["verdict"] == "unknown").mean()),
    }


def _pair_numbers(settings: Settings, pair: str, counted: Tally) -> dict:
    policies, large_texts, _, estimates = (
        t.filter(pl.col("pair") == pair) if "pair" in t.columns else t for t in counted
    )
    numbers: dict = settings.pairs[pair].members() | {"cof": {}, "cof_on_large_text": {}, "cof_authors": {}}
    for name, method in settings.methods_of(pair).items():
        on_large = large_texts.filter(pl.col("method") == name)
        always = policies.filter(pl.col("policy") == f"{name}+always")
        from_dump = fusion.RULES[method.rule].score is fusion.oracle
        own = (on_large if from_dump else always, "dump" if from_dump else "rollout")
        numbers["cof"][name] = _ratio(own[0], "mismatches", settings.seed) | {"basis": own[1]}
        certified = on_large["certified"].sum() / on_large["tokens"].sum()
        numbers["cof_on_large_text"][name] = _ratio(on_large, "mismatches", settings.seed) | {
            "certified_share": _rounded(certified)
        }
        if method.rule == "proxy":
            numbers["cof_authors"][name] = _ratio(always, "small_mismatches", settings.seed)
    numbers["policies"] = {
        name: _policy_numbers(rows, settings.seed)
        for (name,), rows in policies.group_by("policy", maintain_order=True)
    }
    numbers["estimates"] = {
        name: _estimate_numbers(rows, settings.seed)
        for (name,), rows in estimates.group_by("policy", maintain_order=True)
    }
    return numbers


def _policy_numbers(rows: pl.DataFrame, seed: int) -> dict:
    calls, changes = (_ratio(rows, column, seed) for column in ("calls", "interventions"))
    totals = {name: int(rows[name].sum()) for name, _, _ in COSTS if name != "flops"}
    return _accuracy(rows) | {
        "call_ratio": calls["value"],
        "call_ratio_low": calls["low"],
        "call_ratio_high": calls["high"],
        "intervention_ratio": changes["value"],
        "intervention_ratio_low": changes["low"],
        "intervention_ratio_high": changes["high"],
        "tokens": calls["tokens"],
        **totals,
        "flops": float(rows["flops"].sum()),
        "truncated_share": _rounded((rows["finish_reason"] == "length").mean()),
    }


def _estimate_numbers(rows: pl.DataFrame, seed: int) -> dict:
    """Off-policy: calls along the default speaker's text, and how much of it the policy shares."""
    calls = _ratio(rows, "calls", seed)
    return {
        "call_ratio_estimate": calls["value"],
        "low": calls["low"],
        "high": calls["high"],
        "share_on_own_text": _rounded(rows["on_text"].sum() / rows["tokens"].sum()),
    }


def _accuracy(rows: pl.DataFrame) -> dict:
    right = intervals.wilson(int((rows["verdict"] == "right").sum()), len(rows))
    names = ("accuracy", "low", "high")
    return dict(zip(names, map(_rounded, right), strict=True)) | {"prompts": len(rows)}


def _ratio(rows: pl.DataFrame, column: str, seed: int) -> dict:
    found = intervals.ratio(rows[column].to_numpy(), rows["tokens"].to_numpy(), seed=seed)
    tokens = int(rows["tokens"].sum())
    return {k: _rounded(v) for k, v in found._asdict().items()} | {"tokens": tokens, "prompts": len(rows)}


def _rounded(value: float) -> float:
    """Six decimals: finer than any interval here, and readable in a diff."""
    return round(float(value), 6)
