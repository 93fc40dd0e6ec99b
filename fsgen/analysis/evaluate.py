"""From counts per prompt to numbers with intervals: accuracies, collaboration frequencies, policies.

One function makes each kind of object of metrics/<dataset>.json. All ratios and shares are rounded there.
"""

import shutil
from dataclasses import dataclass

import numpy as np
import polars as pl

from fsgen.analysis import counts, intervals
from fsgen.analysis.counts import Counts
from fsgen.analysis.fixed_counts import fixed_counts
from fsgen.analysis.intervals import Interval
from fsgen.config.policies import Method
from fsgen.config.roles import SMALL
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.models import description
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.counts import COSTS, TABLES


@dataclass(frozen=True)
class Ratio:
    """A count over all tokens of some texts, with its interval over prompts."""

    share: Interval
    tokens: int
    prompts: int

    @classmethod
    def of(cls, rows: pl.DataFrame, column: str, seed: int, fixed: tuple[str, ...] = ()) -> "Ratio":
        """From counts per prompt; the interval of a column that a router fixes is its share alone."""
        share = intervals.ratio(rows[column].to_numpy(), rows["tokens"].to_numpy(), seed=seed)
        if column in fixed:
            share = Interval.of_constant(share.value)
        return cls(share, int(rows["tokens"].sum()), len(rows))

    def to_json(self) -> dict:
        """Value, ends, and what was counted."""
        return _interval_json(self.share) | {"tokens": self.tokens, "prompts": self.prompts}


def evaluate(settings: Settings, dataset: str) -> None:
    """Write data/counts/<dataset>/*.parquet (counts) and metrics/<dataset>.json (numbers)."""
    settings.dataset(dataset)
    counted = counts.count_policies(settings, dataset)
    out = paths.counts(dataset)
    with files.atomic_folder(out) as folder:
        for name, table in counted._asdict().items():
            parquet.write(folder / f"{name}.parquet", table, TABLES[name])
        path = files.write_metrics(dataset, summarise(settings, counted))
        shutil.copy(path, folder / "metrics.json")  # where later stages read it, as DVC knows
    pairs, policies = len(settings.pairs), counted.policies["policy"].n_unique()
    console.done(f"{path}: {pairs} pairs and {policies} policies on {dataset}, counts per prompt in {out}")


def summarise(settings: Settings, counted: Counts) -> dict:
    """The content of metrics/<dataset>.json.

    Accuracies carry Wilson intervals over prompts, ratios and ratings a BCa cluster bootstrap over
    prompts, all at 95 %; what a router fixes (`fixed_counts`) is its own low and high. `unknown`
    verdicts count as not right. Where a judge rates, there is no accuracy, and no rating either where
    none is configured.
    """
    models, pairs = {}, {}
    for name in settings.models:
        sizes = description.read_description(name)["parameters"]
        models[name] = model_json(counted.models.filter(model=name), sizes, settings.seed)
    for name in settings.pairs:
        pairs[name] = pair_json(settings, name, counted)
    return {"models": models, "pairs": pairs}


def model_json(rows: pl.DataFrame, sizes: dict[str, int], seed: int) -> dict:
    """A model that wrote alone; `sizes` are the parameter counts of its description."""
    numbers = quality_json(rows, seed)
    numbers["parameters"] = sizes["non_embedding"]
    numbers["total_parameters"] = sizes["total"]
    numbers["tokens"] = int(rows["tokens"].sum())
    numbers["truncated_share"] = _truncated_share(rows)
    if _is_graded(rows):
        numbers["unknown_share"] = _rounded((rows["verdict"] == "unknown").mean())
    return numbers


def pair_json(settings: Settings, pair: str, counted: Counts) -> dict:
    """A pair: its models by role, CoF of every method, its policies, their estimates, the models' steps."""
    policies = counted.policies.filter(pair=pair)
    large = counted.models.filter(model=settings.pairs[pair].large)
    estimates = counted.estimates.filter(pair=pair)
    fixed = fixed_counts(settings.policies_of(pair), settings.routers)
    numbers: dict = settings.pairs[pair].roles()
    numbers |= cof_json(
        settings.methods_of(pair), policies, counted.large_texts.filter(pair=pair), settings.seed
    )
    numbers["policies"] = {
        name: policy_json(rows, large, fixed[name], settings.seed) for name, rows in _by_policy(policies)
    }
    numbers["estimates"] = {
        name: estimate_json(rows, fixed[name], settings.seed) for name, rows in _by_policy(estimates)
    }
    steps = counted.steps.filter(pair=pair).select("role", "shared_steps", "separate_steps")
    numbers["model_steps"] = {
        role: {"shared_steps": shared, "separate_steps": separate} for role, shared, separate in steps.rows()
    }
    return numbers


def cof_json(
    methods: dict[str, Method], policies: pl.DataFrame, large_texts: pl.DataFrame, seed: int
) -> dict[str, dict]:
    """CoF by method, in three ways of counting.

    `cof`: on the text that the method writes when it always calls. `cof_on_large_text`: on the large
    model's text, the same for all methods. `cof_authors`: where the default model is not the small model,
    mismatches with the small one, as FS-GEN counts them.
    """
    cof, on_large_text, authors = {}, {}, {}
    for name, method in methods.items():
        dumped = large_texts.filter(method=name)
        written = policies.filter(policy=f"{name}+always")
        certified = _share(dumped, "certified")
        on_dump = Ratio.of(dumped, "mismatches", seed).to_json()
        on_large_text[name] = on_dump | {"certified_share": certified}
        if method.definition.follows_large:
            cof[name] = on_dump | {"counted_on": "dump", "certified_share": certified}
        else:
            cof[name] = Ratio.of(written, "mismatches", seed).to_json() | {"counted_on": "rollout"}
        if method.definition.default_role != SMALL:
            authors[name] = Ratio.of(written, "mismatches_vs_small", seed).to_json()
    return {"cof": cof, "cof_on_large_text": on_large_text, "cof_authors": authors}


def policy_json(rows: pl.DataFrame, large: pl.DataFrame, fixed: tuple[str, ...], seed: int) -> dict:
    """A policy that wrote its own texts; `large` are the counts of the large model on the same prompts."""
    calls = Ratio.of(rows, "calls", seed, fixed)
    interventions = Ratio.of(rows, "interventions", seed, fixed)
    numbers = quality_json(rows, seed)
    if _is_graded(rows):
        numbers["accuracy_minus_large"] = _accuracy_difference(rows, large, seed)
    numbers |= _ratio_columns("call_ratio", calls) | _ratio_columns("intervention_ratio", interventions)
    numbers["tokens"] = calls.tokens
    for name, _, _ in COSTS:
        numbers[name] = rows[name].sum()
    numbers["truncated_share"] = _truncated_share(rows)
    return numbers


def estimate_json(rows: pl.DataFrame, fixed: tuple[str, ...], seed: int) -> dict:
    """Off-policy: calls along the default model's text, and how much of it the policy shares."""
    calls = _interval_json(Ratio.of(rows, "calls", seed, fixed).share)
    return {
        "call_ratio_estimate": calls["value"],
        "low": calls["low"],
        "high": calls["high"],
        "share_on_own_text": _share(rows, "on_policy"),
        "certified_share": _share(rows, "certified"),
    }


def quality_json(rows: pl.DataFrame, seed: int) -> dict:
    """Accuracy, or a judge's mean rating; neither where there was no judge."""
    if _is_graded(rows):
        right = intervals.wilson(int((rows["verdict"] == "right").sum()), len(rows))
        return _named_interval(right, "accuracy", "low", "high") | {"prompts": len(rows)}
    numbers = {}
    rating_P = rows["rating"].drop_nulls().to_numpy()
    if len(rating_P):
        # as a share of the scale from 1 to 10, which bounds the interval
        share = intervals.ratio((rating_P - 1) / 9, np.ones(len(rating_P)), seed=seed)
        rating = Interval(*(1 + 9 * end for end in share))
        numbers = _named_interval(rating, "rating", "rating_low", "rating_high")
    numbers["prompts"] = len(rows)
    numbers["rated_turns"] = int(rows["rated_turns"].sum())
    numbers["unrated_turns"] = int(rows["unrated_turns"].sum())
    return numbers


def _is_graded(rows: pl.DataFrame) -> bool:
    """Whether texts have verdicts, right or wrong; a judge's ratings are none."""
    return rows["verdict"].null_count() == 0


def _accuracy_difference(rows: pl.DataFrame, large: pl.DataFrame, seed: int) -> dict:
    """Accuracy less the large model's on the same prompts; both tables are sorted by prompt."""
    right_P, large_right_P = ((table["verdict"] == "right").to_numpy() for table in (rows, large))
    return _interval_json(intervals.mean_difference(right_P, large_right_P, seed=seed))


def _by_policy(rows: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    return [(name, group) for (name,), group in rows.group_by("policy", maintain_order=True)]


def _share(rows: pl.DataFrame, column: str) -> float:
    return _rounded(rows[column].sum() / rows["tokens"].sum())


def _truncated_share(rows: pl.DataFrame) -> float:
    return _rounded((rows["finish_reason"] == "length").mean())


def _ratio_columns(name: str, ratio: Ratio) -> dict[str, float]:
    return _named_interval(ratio.share, name, f"{name}_low", f"{name}_high")


def _interval_json(interval: Interval) -> dict[str, float]:
    return _named_interval(interval, "value", "low", "high")


def _named_interval(interval: Interval, value: str, low: str, high: str) -> dict[str, float]:
    return {name: _rounded(end) for name, end in zip((value, low, high), interval, strict=True)}


def _rounded(value: float) -> float:
    """Six decimals: finer than any interval here, and readable in a diff."""
    return round(float(value), 6)
