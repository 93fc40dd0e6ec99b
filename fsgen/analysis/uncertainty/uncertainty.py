"""Uncertainty and mismatch: every score against every mismatch on test prompts, as tables."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from fsgen.analysis import intervals
from fsgen.analysis.uncertainty import discrimination, positions, projections
from fsgen.collaboration import router_input
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.tables import files, parquet, paths
from fsgen.tables.parquet import KEY
from fsgen.tables.schemas.uncertainty import TABLES

SCORES = ("entropy", "max_probability", "margin", "logistic", "svm")
SENTENCE_END = r"[.!?\n]\s*$"


def write_uncertainty(settings: Settings) -> None:
    """Write data/uncertainty/<dataset>/*.parquet and metrics/uncertainty.json."""
    out, told = paths.uncertainty(), {}
    with files.atomic_folder(out) as folder:
        for dataset in settings.datasets:
            rows = {name: [] for name in TABLES}
            for pair in settings.pairs:
                for name, own in describe_pair(settings, pair, dataset):
                    rows[name].append({"pair": pair} | own)
            for name, schema in TABLES.items():
                parquet.write(folder / dataset / f"{name}.parquet", rows[name], schema)
            told[dataset] = summarise(rows)
    path = files.write_metrics("uncertainty", told)
    console.done(f"{path}: {len(settings.pairs)} pairs on {', '.join(settings.datasets)}; tables in {out}/")


def describe_pair(settings: Settings, pair: str, dataset: str) -> Iterator[tuple[str, dict]]:
    """Rows of every table but their pair, each with the table's name; one method and text at a time."""
    scores = parquet.scan(paths.routes(pair, dataset) / "scores-*.parquet").filter("in_answer")
    members, methods = settings.pairs[pair].roles(), settings.methods_of(pair)
    rules = {name: method.definition for name, method in methods.items() if not method.definition.drafts}
    speaks = {name: rule.default_role for name, rule in rules.items()}
    places = {writer: _places(members[writer], dataset) for writer in {"large", *speaks.values()}}
    for method in sorted(rules):
        for writer in sorted(("large", speaks[method])):
            rows = scores.filter(method=method, writer=writer).collect()
            placed = rows.join(places[writer], on=KEY, validate="1:1").sort(KEY)
            about = {"method": method, "writer": writer}
            for table, row in describe(placed, settings.seed):
                yield table, about | row
    method = min(rules, key=lambda name: rules[name].inputs != ("large",))  # the oracle, where there is one
    writer = speaks[method]
    own = scores.filter(method=method, writer=writer).select(*KEY, "mismatch").collect()
    for row in _embed(settings, members[writer], dataset, own):
        yield "embedding", {"method": method, "writer": writer} | row


def _places(model: str, dataset: str) -> pl.DataFrame:
    """Whether each chosen token of a model's text begins its turn, or a sentence."""
    tokens = parquet.read(paths.dumps(model, dataset) / "tokens-*.parquet", [*KEY, "token_id", "forced"])
    pieces = parquet.read(paths.vocabulary(model), ["token_id", "piece"])
    ends = pieces.select("token_id", ends=pl.col("piece").str.contains(SENTENCE_END))
    tokens = tokens.join(ends, on="token_id", how="left").sort(KEY)
    has_ended = pl.col("ends").shift(1).over("prompt_id", "turn").fill_null(False)
    chosen = tokens.with_columns(has_ended=has_ended).filter(~pl.col("forced"))
    is_first = pl.col("pos") == pl.col("pos").min().over("prompt_id", "turn")
    return chosen.select(*KEY, is_first=is_first, is_start=pl.col("has_ended") & ~is_first)


def describe(rows: pl.DataFrame, seed: int) -> Iterator[tuple[str, dict]]:
    """What scores and positions tell of the mismatches of one method on one text, table by table."""
    mismatch_N, prompt_N = rows["mismatch"].to_numpy(), _prompt_ranks(rows)
    for score in SCORES:
        if rows[score].null_count() == 0:
            doubt_N = discrimination.doubt(score, rows[score].to_numpy().astype(np.float64))
            yield from _ranked(score, doubt_N, mismatch_N, prompt_N, seed)
            yield from _calibrated(score, doubt_N, mismatch_N, prompt_N, seed)
    yield from _located(rows, mismatch_N, prompt_N, seed)
    yield from _regressed(rows, mismatch_N, prompt_N)


def _prompt_ranks(rows: pl.DataFrame) -> np.ndarray:
    """The rows' prompts as numbers in the order of their names, which would be compared letter by letter."""
    return rows["prompt_id"].rank("dense").to_numpy()


def _ranked(score: str, doubt_N, mismatch_N, prompt_N, seed: int) -> Iterator[tuple[str, dict]]:
    found = discrimination.rank(doubt_N, mismatch_N, prompt_N, seed=seed)
    quantities = {"auroc": found.auroc, "average_precision": found.average_precision}
    if score in discrimination.CHANCES:
        quantities["brier"] = discrimination.brier(doubt_N, mismatch_N, prompt_N, seed=seed)
    counts = _counts(mismatch_N) | {"prompts": len(np.unique(prompt_N))}
    for quantity, interval in quantities.items():
        row = {"score": score, "quantity": quantity} | counts
        yield "discrimination", row | intervals.interval_columns(interval, "value")
    for share, interval in zip(discrimination.SHARES, found.lorenz or [], strict=False):
        row = {"score": score, "share_of_tokens": share}
        yield "lorenz", row | intervals.interval_columns(interval, "share_of_mismatches")


def _calibrated(score: str, doubt_N, mismatch_N, prompt_N, seed: int) -> Iterator[tuple[str, dict]]:
    is_chance = score in discrimination.CHANCES
    for i, tenth in enumerate(discrimination.deciles(doubt_N, mismatch_N, prompt_N, seed=seed)):
        claimed = tenth.mean_doubt if is_chance else None
        row = {"score": score, "bin": i, "mean_score": tenth.mean_doubt, "tokens": tenth.tokens}
        row |= {"is_probability": is_chance, "claimed": claimed}
        yield "reliability", row | intervals.interval_columns(tenth.rate, "rate")


def _located(rows: pl.DataFrame, mismatch_N, prompt_N, seed: int) -> Iterator[tuple[str, dict]]:
    pos_N, entropy_N = rows["pos"].to_numpy(), rows["entropy"].to_numpy().astype(np.float64)
    scales = {
        "absolute": (pos_N, positions.doubling_edges(pos_N)),
        "relative": (positions.relative(pos_N, prompt_N), positions.TENTHS),
    }
    for scale, (at_N, edges) in scales.items():
        bins = positions.by_position(at_N, edges, entropy_N, mismatch_N, prompt_N, seed=seed)
        for i, found in enumerate(bins):
            row = {"scale": scale, "bin": i, "bin_low": found.low, "bin_high": found.high}
            row |= {name: getattr(found, name) for name in ("tokens", "mismatches", "mean_entropy")}
            auroc = intervals.interval_columns(found.auroc, "auroc", "auroc_low", "auroc_high")
            yield "positions", row | intervals.interval_columns(found.rate, "rate") | auroc
    first_N, start_N = rows["is_first"].to_numpy(), rows["is_start"].to_numpy()
    places = {"first token": first_N, "sentence start": start_N, "elsewhere": ~first_N & ~start_N}
    for place, own in places.items():
        if own.any():
            share = discrimination.rate(mismatch_N[own], prompt_N[own], seed=seed)
            row = {"place": place, "mean_entropy": float(entropy_N[own].mean())} | _counts(mismatch_N[own])
            yield "places", row | intervals.interval_columns(share, "rate")


def _regressed(rows: pl.DataFrame, mismatch_N, prompt_N) -> Iterator[tuple[str, dict]]:
    """Effects of position without and with entropy; a place where nothing varies is left out of both."""
    places = {"first token": rows["is_first"].to_numpy(), "sentence start": rows["is_start"].to_numpy()}
    place = {"per doubling of position": np.log2(1 + rows["pos"].to_numpy())}
    place |= {name: own for name, own in places.items() if len(np.unique(mismatch_N[own])) == 2}
    entropy_N = rows["entropy"].to_numpy().astype(np.float64)
    doubt = {"per nat of entropy": entropy_N, "per nat squared": entropy_N**2}
    counts = {"tokens": len(mismatch_N), "prompts": len(np.unique(prompt_N))}
    for model, regressors in {"position alone": place, "with entropy": place | doubt}.items():
        for effect in positions.effects(regressors, mismatch_N, prompt_N):
            row = {"model": model, "term": effect.term, "coefficient": effect.coefficient}
            yield "effects", row | intervals.interval_columns(effect.odds_ratio, "odds_ratio") | counts


def _embed(settings: Settings, model: str, dataset: str, rows: pl.DataFrame) -> Iterator[dict]:
    """Coordinates of a sample of tokens in both views."""
    width = settings.dump.k_min
    rows = rows.sort(KEY)
    rows = rows.filter(pl.Series(projections.sample(_prompt_ranks(rows), settings.seed)))
    dump = parquet.scan(paths.dumps(model, dataset) / "tokens-*.parquet")
    dump = dump.filter(pl.col("prompt_id").is_in(rows["prompt_id"].unique().implode()))
    dump = dump.select(*KEY, *router_input.router_input_columns(width)).collect()
    rows = rows.join(dump, on=KEY, validate="1:1").sort(KEY)
    probability_NK = router_input.router_input(rows, width).probability_NK
    views = {"pca": projections.pca(probability_NK), "tsne": projections.tsne(probability_NK, settings.seed)}
    for view, place_N2 in views.items():
        told = rows.select(*KEY, "mismatch").iter_rows(named=True)
        for row, (x, y) in zip(told, place_N2.tolist(), strict=True):
            yield {"view": view, "x": x, "y": y} | row


def _counts(mismatch_N: np.ndarray) -> dict[str, int]:
    return {"tokens": len(mismatch_N), "mismatches": int(mismatch_N.sum())}


def summarise(rows: dict[str, list[dict]]) -> dict:
    """What metrics/uncertainty.json says of a dataset: pair, method, text, and there scores and effects."""
    told: dict = {}
    for row in rows["discrimination"]:
        own = _entry(told, row).setdefault("scores", {}).setdefault(row["score"], {})
        own[row["quantity"]] = intervals.rounded(row, "value", "low", "high")
    for row in rows["lorenz"]:
        if row["share_of_tokens"] == 0.1:
            own = _entry(told, row)["scores"][row["score"]]
            named = row | {"value": row["share_of_mismatches"]}
            own["top_10_percent_holds"] = intervals.rounded(named, "value", "low", "high")
    for row in rows["effects"]:
        own = _entry(told, row).setdefault("odds_ratios", {}).setdefault(row["model"], {})
        own[row["term"]] = intervals.rounded(row, "odds_ratio", "low", "high")
    return told


def _entry(told: dict, row: dict) -> dict:
    return told.setdefault(row["pair"], {}).setdefault(row["method"], {}).setdefault(row["writer"], {})
