"""From counts per prompt to numbers with intervals: accuracies, collaboration frequencies, policies."""

import shutil

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.analysis import counts, intervals
from fsgen.analysis.counts import Counts
from fsgen.analysis.intervals import Interval
from fsgen.collaboration import fusion
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.models import description
from fsgen.tables import files, parquet, paths

# by a router's rule, the counts whose ratio to tokens is the same on whatever prompt
CONSTANT_COUNTS = {"always": ("calls",), "never": ("calls", "interventions", "large_positions")}

PAIRS = parquet.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("role", pa.string(), "small, tuned (only where there is one) or large"),
        ("model", pa.string(), "model, a key of params.yaml"),
        ("parameters", pa.int64(), "its parameters outside vocabulary matrices"),
        ("total_parameters", pa.int64(), "all its parameters"),
    ]
)


def evaluate(settings: Settings, dataset: str) -> None:
    """Write data/evaluated/<dataset>/*.parquet (counts) and metrics/<dataset>.json (numbers)."""
    settings.named("datasets", dataset)
    counted = counts.count_policies(settings, dataset)
    out = paths.counts(dataset)
    with files.atomic_folder(out) as folder:
        schemas = (counts.POLICIES, counts.LARGE_TEXTS, counts.MODELS, counts.ESTIMATES, counts.STEPS)
        for name, table, schema in zip(Counts._fields, counted, schemas, strict=True):
            parquet.write(folder / f"{name}.parquet", table, schema)
        parquet.write(folder / "pairs.parquet", list_pairs(settings), PAIRS)
        path = files.write_metrics(dataset, summarise(settings, counted))
        shutil.copy(path, folder / "metrics.json")  # where later stages read it, as DVC knows
    pairs, policies = len(settings.pairs), counted.policies["policy"].n_unique()
    console.done(f"{path}: {pairs} pairs and {policies} policies on {dataset}, counts per prompt in {out}")


def list_pairs(settings: Settings) -> list[dict]:
    """Rows of PAIRS: which model plays which role, and how large it is."""
    rows = []
    for pair, entry in settings.pairs.items():
        for role, model in entry.members().items():
            sizes = description.read_description(model)["parameters"]
            counts = {"parameters": sizes["non_embedding"], "total_parameters": sizes["total"]}
            rows.append({"pair": pair, "role": role, "model": model, **counts})
    return rows


def summarise(settings: Settings, counted: Counts) -> dict:
    """The content of metrics/<dataset>.json.

    Accuracies carry Wilson intervals over prompts, ratios and ratings a BCa cluster bootstrap over
    prompts, all at 95 %; what a router fixes by its rule (`FIXED`) is its own low and high. `unknown`
    verdicts count as not right. Where a judge rates, there is no accuracy, and no rating either where
    none is configured.
    """
    return {
        "models": {name: _model_numbers(name, counted, settings.seed) for name in settings.models},
        "pairs": {name: _pair_numbers(settings, name, counted) for name in settings.pairs},
    }


def list_fixed(settings: Settings, pair: str) -> dict[str, tuple[str, ...]]:
    """By policy of the pair, the columns of counts that `FIXED` names for the rule of its router."""
    rules = {name: router.rule for name, router in settings.routers.items()}
    routers = {policy.name: policy.router or "" for policy in settings.policies_of(pair)}
    return {name: CONSTANT_COUNTS.get(rules.get(router, router), ()) for name, router in routers.items()}


def _model_numbers(name: str, counted: Counts, seed: int) -> dict:
    rows = counted.models.filter(pl.col("model") == name)
    sizes = description.read_description(name)["parameters"]
    unknown = {"unknown_share": _rounded((rows["verdict"] == "unknown").mean())} if _is_graded(rows) else {}
    return _quality(rows, seed) | {
        "parameters": sizes["non_embedding"],
        "total_parameters": sizes["total"],
        "tokens": int(rows["tokens"].sum()),
        "truncated_share": _rounded((rows["finish_reason"] == "length").mean()),
        **unknown,
    }


def _pair_numbers(settings: Settings, pair: str, counted: Counts) -> dict:
    mine = pl.col("pair") == pair
    policies, large_texts = counted.policies.filter(mine), counted.large_texts.filter(mine)
    numbers: dict = settings.pairs[pair].members() | {"cof": {}, "cof_on_large_text": {}, "cof_authors": {}}
    for name, method in settings.methods_of(pair).items():
        on_large = large_texts.filter(pl.col("method") == name)
        always = policies.filter(pl.col("policy") == f"{name}+always")
        from_dump = fusion.RULES[method.rule].score is fusion.oracle
        own = (on_large if from_dump else always, "dump" if from_dump else "rollout")
        certified = on_large["certified"].sum() / on_large["tokens"].sum()
        numbers["cof"][name] = _ratio(own[0], "mismatches", settings.seed) | {"basis": own[1]}
        if from_dump:
            numbers["cof"][name]["certified_share"] = _rounded(certified)
        numbers["cof_on_large_text"][name] = _ratio(on_large, "mismatches", settings.seed) | {
            "certified_share": _rounded(certified)
        }
        if method.rule == "proxy":
            numbers["cof_authors"][name] = _ratio(always, "small_mismatches", settings.seed)
    large = counted.models.filter(pl.col("model") == settings.pairs[pair].large)
    fixed = list_fixed(settings, pair)
    numbers["policies"] = {
        name: _policy_numbers(rows, large, fixed[name], settings.seed)
        for (name,), rows in policies.group_by("policy", maintain_order=True)
    }
    numbers["estimates"] = {
        name: _estimate_numbers(rows, fixed[name], settings.seed)
        for (name,), rows in counted.estimates.filter(mine).group_by("policy", maintain_order=True)
    }
    steps = counted.steps.filter(mine)
    numbers["model_steps"] = {role: {"taken": t, "alone": a} for _, role, t, a in steps.iter_rows()}
    return numbers


def _policy_numbers(rows: pl.DataFrame, large: pl.DataFrame, fixed: tuple[str, ...], seed: int) -> dict:
    calls, changes = (_ratio(rows, column, seed, fixed) for column in ("calls", "interventions"))
    totals = {name: int(rows[name].sum()) for name, _, _ in counts.COSTS if name != "flops"}
    gain = {"accuracy_minus_large": _gain(rows, large, seed)} if _is_graded(rows) else {}
    return (
        _quality(rows, seed)
        | gain
        | {
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
    )


def _gain(rows: pl.DataFrame, large: pl.DataFrame, seed: int) -> dict:
    """Accuracy less the large model's on the same prompts; both tables are sorted by prompt."""
    right = ((table["verdict"] == "right").to_numpy() for table in (rows, large))
    found = intervals.mean_difference(*right, seed=seed)
    return {key: _rounded(value) for key, value in found._asdict().items()}


def _estimate_numbers(rows: pl.DataFrame, fixed: tuple[str, ...], seed: int) -> dict:
    """Off-policy: calls along the default speaker's text, and how much of it the policy shares."""
    calls = _ratio(rows, "calls", seed, fixed)
    return {
        "call_ratio_estimate": calls["value"],
        "low": calls["low"],
        "high": calls["high"],
        "share_on_own_text": _rounded(rows["on_text"].sum() / rows["tokens"].sum()),
        "certified_share": _rounded(rows["certified"].sum() / rows["tokens"].sum()),
    }


def _is_graded(rows: pl.DataFrame) -> bool:
    """Whether texts have verdicts, right or wrong; a judge's ratings are none."""
    return rows["verdict"].null_count() == 0


def _quality(rows: pl.DataFrame, seed: int) -> dict:
    """Accuracy, or a judge's mean rating; neither where there was no judge."""
    if _is_graded(rows):
        right = intervals.wilson(int((rows["verdict"] == "right").sum()), len(rows))
        names = ("accuracy", "low", "high")
        return dict(zip(names, map(_rounded, right), strict=True)) | {"prompts": len(rows)}
    rated = rows["rating"].drop_nulls().to_numpy()
    counts = {"prompts": len(rows), "rated_turns": int(rows["rated"].sum())}
    counts["unrated_turns"] = int(rows["unrated"].sum())
    if not len(rated):
        return counts
    # as a share of the scale from 1 to 10, which bounds the interval
    found = intervals.ratio((rated - 1) / 9, np.ones(len(rated)), seed=seed)
    names = ("rating", "rating_low", "rating_high")
    return {name: _rounded(1 + 9 * share) for name, share in zip(names, found, strict=True)} | counts


def _ratio(rows: pl.DataFrame, column: str, seed: int, fixed: tuple[str, ...] = ()) -> dict:
    """A column's share of the tokens with its interval, which is that share alone where it is fixed."""
    found = intervals.ratio(rows[column].to_numpy(), rows["tokens"].to_numpy(), seed=seed)
    if column in fixed:
        found = Interval(found.value, found.value, found.value)
    tokens = int(rows["tokens"].sum())
    return {k: _rounded(v) for k, v in found._asdict().items()} | {"tokens": tokens, "prompts": len(rows)}


def _rounded(value: float) -> float:
    """Six decimals: finer than any interval here, and readable in a diff."""
    return round(float(value), 6)
