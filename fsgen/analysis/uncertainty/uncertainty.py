"""Uncertainty and mismatch: every score against every mismatch on test prompts, as tables."""

from collections.abc import Iterator, Mapping

import polars as pl

from fsgen.analysis.intervals import interval_json
from fsgen.analysis.uncertainty import projections
from fsgen.analysis.uncertainty.mismatch_tables import ScoredTokens, describe, prompt_ranks
from fsgen.collaboration import router_input
from fsgen.config.policies import Method
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.tables import files, parquet, paths
from fsgen.tables.parquet import KEY
from fsgen.tables.schemas.uncertainty import TABLES

SUMMARISED_SHARE = 0.1  # of the tokens, whose share of the mismatches the summary gives
SENTENCE_END = r"[.!?\n]\s*$"


def write_uncertainty(settings: Settings) -> None:
    """Write data/uncertainty/<dataset>/*.parquet and metrics/uncertainty.json."""
    out, summary = paths.uncertainty(), {}
    with files.atomic_folder(out) as folder:
        for dataset in settings.datasets:
            tables: dict[str, list[dict]] = {name: [] for name in TABLES}
            for pair in settings.pairs:
                for name, row in describe_pair(settings, pair, dataset):
                    tables[name].append({"pair": pair} | row)
            for name, schema in TABLES.items():
                parquet.write(folder / dataset / f"{name}.parquet", tables[name], schema)
            summary[dataset] = summarise(tables)
    path = files.write_metrics("uncertainty", summary)
    console.done(f"{path}: {len(settings.pairs)} pairs on {', '.join(settings.datasets)}; tables in {out}/")


def describe_pair(settings: Settings, pair: str, dataset: str) -> Iterator[tuple[str, dict]]:
    """Rows of every table but their pair, each with the table's name; one method and text at a time."""
    scores = parquet.scan(paths.routes(pair, dataset) / "scores-*.parquet").filter("in_answer")
    models, methods = settings.pairs[pair].roles(), _routed_methods(settings.methods_of(pair))
    writers = {name: {"large", method.definition.default_role} for name, method in methods.items()}
    places = {writer: _places(models[writer], dataset) for writer in set().union(*writers.values())}
    for method in sorted(methods):
        for writer in sorted(writers[method]):
            rows = scores.filter(method=method, writer=writer).collect()
            placed = rows.join(places[writer], on=KEY, validate="1:1").sort(KEY)
            for table, row in describe(ScoredTokens.of(placed), settings.seed):
                yield table, {"method": method, "writer": writer} | row
    method = _projected_method(methods)
    writer = methods[method].definition.default_role
    mismatches = scores.filter(method=method, writer=writer).select(*KEY, "mismatch").collect()
    for row in _projection_rows(mismatches, models[writer], dataset, settings.dump.min_top_k, settings.seed):
        yield "projections", {"method": method, "writer": writer} | row


def _routed_methods(methods: Mapping[str, Method]) -> dict[str, Method]:
    """The methods with a router, which is what scores are for."""
    return {name: method for name, method in methods.items() if not method.definition.drafts}


def _projected_method(methods: dict[str, Method]) -> str:
    """The first method that writes the large model's own text (the oracle), else the first of all."""
    return min(methods, key=lambda name: not methods[name].definition.follows_large)


def _places(model: str, dataset: str) -> pl.DataFrame:
    """Whether each chosen token of a model's text begins its turn, or a sentence."""
    tokens = parquet.read(
        paths.dumps(model, dataset) / "tokens-*.parquet", [*KEY, "token_id", "from_template"]
    )
    pieces = parquet.read(paths.vocabulary(model), ["token_id", "piece"])
    ends = pieces.select("token_id", ends=pl.col("piece").str.contains(SENTENCE_END))
    tokens = tokens.join(ends, on="token_id", how="left").sort(KEY)
    has_ended = pl.col("ends").shift(1).over("prompt_id", "turn").fill_null(False)
    chosen = tokens.with_columns(has_ended=has_ended).filter(~pl.col("from_template"))
    is_first = pl.col("pos") == pl.col("pos").min().over("prompt_id", "turn")
    return chosen.select(*KEY, is_first=is_first, is_start=pl.col("has_ended") & ~is_first)


def _projection_rows(rows: pl.DataFrame, model: str, dataset: str, width: int, seed: int) -> Iterator[dict]:
    """Coordinates of a sample of tokens by their `width` top probabilities, in both projections.

    `rows` are tokens of the model's own text with KEY and mismatch.
    """
    rows = rows.sort(KEY)
    rows = rows.filter(pl.Series(projections.sample(prompt_ranks(rows), seed)))
    dump = parquet.scan(paths.dumps(model, dataset) / "tokens-*.parquet")
    dump = dump.filter(pl.col("prompt_id").is_in(rows["prompt_id"].unique().implode()))
    dump = dump.select(*KEY, *router_input.router_input_columns(width)).collect()
    rows = rows.join(dump, on=KEY, validate="1:1").sort(KEY)
    probability_NK = router_input.router_input(rows, width).probability_NK
    coordinates = {"pca": projections.pca(probability_NK), "tsne": projections.tsne(probability_NK, seed)}
    for projection, place_N2 in coordinates.items():
        placed = rows.select(*KEY, "mismatch").with_columns(
            projection=pl.lit(projection), x=place_N2[:, 0], y=place_N2[:, 1]
        )
        yield from placed.iter_rows(named=True)


def summarise(tables: dict[str, list[dict]]) -> dict:
    """The part of metrics/uncertainty.json for a dataset, by pair, method and writer."""
    summary: dict = {}
    for row in tables["score_discrimination"]:
        score = _entry(summary, row, "scores", row["score"])
        score[row["metric"]] = interval_json(row, "value")
    for row in tables["score_lorenz"]:
        if row["share_of_tokens"] == SUMMARISED_SHARE:
            score = _entry(summary, row, "scores", row["score"])
            score["top_10_percent_holds"] = interval_json(row, "share_of_mismatches")
    for row in tables["mismatch_odds_ratios"]:
        effects = _entry(summary, row, "odds_ratios", row["regressors"])
        effects[row["term"]] = interval_json(row, "odds_ratio")
    return summary


def _entry(summary: dict, row: dict, *keys: str) -> dict:
    """The object under a row's series and these keys; created if missing."""
    entry = summary
    for key in (row["pair"], row["method"], row["writer"], *keys):
        entry = entry.setdefault(key, {})
    return entry
