"""Fits every law to every series of points and lays the results out as tables and as JSON.

A series is what one method gave on one dataset. Shape legend: P pairs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.analysis import intervals
from fsgen.analysis.scaling.law_intervals import IDENTIFIED_FROM, jackknife, profile
from fsgen.analysis.scaling.laws import LAWS, fit, held_out_predictions, rmse
from fsgen.tables import files, parquet

CLAIMED = 0.20  # FS-GEN's abstract: fewer than 20 % of the tokens need the large model
GRID = 50  # large sizes of a drawn curve
_TEXT, _NUMBER, _COUNT, _YES = pa.string(), pa.float64(), pa.int64(), pa.bool_()
_SERIES = [("method", _TEXT, "method of the series"), ("dataset", _TEXT, "dataset of the series")]
_LAW = [*_SERIES, ("law", _TEXT, "power, log_ratio, two_size, product or gap")]
_SIZES = [
    ("small_b", _NUMBER, "the small model's size as laws use it, in billions of parameters"),
    ("large_b", _NUMBER, "the large model's size as laws use it, in billions of parameters"),
]
SCHEMAS = {
    "points": parquet.schema(
        [
            *_SERIES,
            ("pair", _TEXT, "the pair"),
            ("small", _TEXT, "the small model"),
            ("large", _TEXT, "the large model"),
            *_SIZES,
            ("small_total_b", _NUMBER, "all parameters of the small model, in billions"),
            ("large_total_b", _NUMBER, "all parameters of the large model, in billions"),
            ("small_entropy", _NUMBER, "mean entropy of the small model on its own text, in nats"),
            ("cof", _NUMBER, "collaboration frequency"),
            ("low", _NUMBER, "lower end of its 95 % interval over prompts"),
            ("high", _NUMBER, "upper end of its 95 % interval over prompts"),
            ("tokens", _COUNT, "tokens counted"),
            ("prompts", _COUNT, "prompts counted"),
        ]
    ),
    "fits": parquet.schema(
        [
            *_LAW,
            ("n", _COUNT, "pairs fitted"),
            ("distinct_models", _COUNT, "models that these pairs are made of"),
            ("identified", _YES, f"whether these are at least {IDENTIFIED_FROM}"),
            ("r2", _NUMBER, "share of the variance of CoF that the law explains"),
            ("aicc", _NUMBER, "Akaike's criterion, corrected for few pairs; lower is better"),
            ("loo_rmse", _NUMBER, "error of predicting a pair from the other pairs"),
            ("small_out_rmse", _NUMBER, "error of predicting a pair from those with other small models"),
            ("at_bound", _YES, "whether a parameter lies on the edge of where it was searched"),
        ]
    ),
    "parameters": parquet.schema(
        [
            *_LAW,
            ("parameter", _TEXT, "name of the parameter"),
            ("value", _NUMBER, "its least squares estimate"),
            ("profile_low", _NUMBER, "lower end of the 95 % profile interval; null: unbounded"),
            ("profile_high", _NUMBER, "upper end of the 95 % profile interval; null: unbounded"),
            (
                "model_low",
                _NUMBER,
                "lower end of the 95 % jackknife interval over models; null: not identified",
            ),
            ("model_high", _NUMBER, "upper end of the 95 % jackknife interval over models"),
        ]
    ),
    "errors": parquet.schema(
        [
            *_LAW,
            ("left_out", _TEXT, "pair: the pair alone; small: every pair with its small model"),
            ("pair", _TEXT, "the pair predicted"),
            *_SIZES,
            ("cof", _NUMBER, "collaboration frequency measured"),
            ("predicted", _NUMBER, "what the law fitted to the pairs left predicts"),
        ]
    ),
    "curves": parquet.schema([*_LAW, *_SIZES, ("cof", _NUMBER, "what the fitted law gives")]),
    "claims": parquet.schema(
        [
            ("method", _TEXT, "method, or all"),
            ("dataset", _TEXT, "dataset, or all"),
            ("cells", _COUNT, "pairs counted"),
            ("above", _COUNT, f"pairs with a CoF above {CLAIMED}"),
            ("share", _NUMBER, "above / cells"),
            ("low", _NUMBER, "lower end of Wilson's 95 % interval over cells, taken as independent"),
            ("high", _NUMBER, "upper end of Wilson's 95 % interval over cells"),
        ]
    ),
}


class Columns(NamedTuple):
    """What laws are fitted to."""

    small_P: np.ndarray
    large_P: np.ndarray
    cof_P: np.ndarray


def series_of(points: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Method, dataset and points of every series, in order."""
    for (method, dataset), group in points.sort("method", "dataset", "pair").group_by(
        "method", "dataset", maintain_order=True
    ):
        yield method, dataset, group


def columns(points: pl.DataFrame) -> Columns:
    """Sizes in billions and CoF of a series, [P] each."""
    return Columns(*(points[name].to_numpy().astype(np.float64) for name in ("small_b", "large_b", "cof")))


def others(names: np.ndarray) -> np.ndarray:
    """Which pairs bear another name, [P, P]."""
    return names[:, None] != names


def count_models(points: pl.DataFrame) -> int:
    """How many models its pairs are made of."""
    return len(set(points["small"]) | set(points["large"]))


def describe(points: pl.DataFrame) -> dict[str, dict]:
    """Every law of one series: fit, errors left out, and its parameters' intervals over pairs and models."""
    data, small_P = columns(points), points["small"].to_numpy()
    names_P2 = points.select("small", "large").to_numpy()
    return {
        law: fit(law, *data)._asdict()
        | {
            "small_out_rmse": rmse(held_out_predictions(law, *data, others(small_P)), data.cof_P),
            "intervals": {name: list(ends) for name, ends in profile(law, *data).items()},
            "model_intervals": {name: list(ends) for name, ends in jackknife(law, *data, names_P2).items()},
        }
        for law in LAWS
    }


def tables(points: pl.DataFrame, described: dict[tuple[str, str], dict[str, dict]]) -> dict[str, list[dict]]:
    """Rows of fits, parameters, errors and curves of all series."""
    rows: dict[str, list[dict]] = {name: [] for name in ("fits", "parameters", "errors", "curves")}
    for method, dataset, group in series_of(points):
        models = count_models(group)
        counts = {"n": len(group), "distinct_models": models, "identified": models >= IDENTIFIED_FROM}
        for law, told in described[method, dataset].items():
            key = {"method": method, "dataset": dataset, "law": law}
            rows["fits"].append(key | counts | told)
            if told["params"] is None:
                continue
            rows["parameters"] += [key | row for row in _parameters(told)]
            rows["errors"] += [key | row for row in _errors(law, group)]
            rows["curves"] += [key | row for row in _curves(law, group, told["params"])]
    return rows


def _parameters(told: dict) -> Iterator[dict]:
    for name, value in told["params"].items():
        (low, high), (model_low, model_high) = told["intervals"][name], told["model_intervals"][name]
        yield {
            "parameter": name,
            "value": value,
            "profile_low": low,
            "profile_high": high,
            "model_low": model_low,
            "model_high": model_high,
        }


def _errors(law: str, points: pl.DataFrame) -> Iterator[dict]:
    for left, column in (("pair", "pair"), ("small", "small")):
        predicted_P = held_out_predictions(law, *columns(points), others(points[column].to_numpy()))
        if predicted_P is None:
            continue
        rows = points.select("pair", "small_b", "large_b", "cof").to_dicts()
        for row, predicted in zip(rows, predicted_P.tolist(), strict=True):
            yield row | {"left_out": left, "predicted": predicted}


def _curves(law: str, points: pl.DataFrame, params: dict[str, float]) -> Iterator[dict]:
    """The law for every small model of the series, from the nearest to the farthest large size fitted."""
    nearest, furthest = points["large_b"].min(), points["large_b"].max()
    for small_b in points["small_b"].unique().sort():
        large_G = np.geomspace(max(nearest, small_b), furthest, GRID)
        cof_G = LAWS[law].predict(np.full(GRID, small_b), large_G, **params)
        for large_b, cof in zip(large_G.tolist(), cof_G.tolist(), strict=True):
            yield {"small_b": small_b, "large_b": large_b, "cof": cof}


def claims(points: pl.DataFrame) -> list[dict]:
    """How many pairs lie above `CLAIMED`: by series, by method, and all together."""
    groups = [((method, dataset), group) for method, dataset, group in series_of(points)]
    methods = points.sort("method").group_by("method", maintain_order=True)
    groups += [((method, "all"), group) for (method,), group in methods]
    return [_claim(*key, group) for key, group in [*groups, (("all", "all"), points)] if len(group)]


def _claim(method: str, dataset: str, points: pl.DataFrame) -> dict:
    cells, above = len(points), int((points["cof"] > CLAIMED).sum())
    share = intervals.wilson(above, cells)
    return {
        "method": method,
        "dataset": dataset,
        "cells": cells,
        "above": above,
        "share": share.value,
        "low": share.low,
        "high": share.high,
    }


def write_tables(folder: Path, rows: dict[str, list[dict]], schemas: dict[str, pa.Schema]) -> None:
    """One Parquet file a table; the folder appears whole."""
    with files.atomic_folder(folder) as part:
        for name, columns_ in schemas.items():
            parquet.write(part / f"{name}.parquet", rows[name], columns_)
