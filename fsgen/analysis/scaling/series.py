"""Fits every law to every series of points and lays the results out as tables and as JSON.

A series is the points of one method on one dataset. Shape legend: P pairs.
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
from fsgen.tables.schemas.scaling import CLAIMED_COF

FITTED_TABLES = ("scaling_fits", "scaling_parameters", "scaling_held_out", "scaling_curves")
GRID = 50  # large sizes of a drawn curve


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
    """Every law of one series: fit, held-out errors, and its parameters' intervals over pairs and models."""
    return {law: _describe_law(law, points) for law in LAWS}


def _describe_law(law: str, points: pl.DataFrame) -> dict:
    data, small_P = columns(points), points["small"].to_numpy()
    models_P2 = points.select("small", "large").to_numpy()
    numbers = fit(law, *data)._asdict()
    numbers["small_out_rmse"] = rmse(held_out_predictions(law, *data, others(small_P)), data.cof_P)
    numbers["intervals"] = {name: list(ends) for name, ends in profile(law, *data).items()}
    of_models = jackknife(law, *data, models_P2)
    numbers["model_intervals"] = {name: list(ends) for name, ends in of_models.items()}
    return numbers


def tables(points: pl.DataFrame, described: dict[tuple[str, str], dict[str, dict]]) -> dict[str, list[dict]]:
    """Rows of FITTED_TABLES for all series; `described` as by `describe`."""
    rows: dict[str, list[dict]] = {name: [] for name in FITTED_TABLES}
    for method, dataset, group in series_of(points):
        models = count_models(group)
        counts = {"pairs": len(group), "models": models, "identified": models >= IDENTIFIED_FROM}
        for law, numbers in described[method, dataset].items():
            key = {"method": method, "dataset": dataset, "law": law}
            rows["scaling_fits"].append(key | counts | numbers)
            if numbers["params"] is not None:
                rows["scaling_parameters"] += [key | row for row in _parameter_rows(numbers)]
                rows["scaling_held_out"] += [key | row for row in _held_out_rows(law, group)]
                rows["scaling_curves"] += [key | row for row in _curve_rows(law, group, numbers["params"])]
    return rows


def _parameter_rows(numbers: dict) -> Iterator[dict]:
    for name, value in numbers["params"].items():
        low, high = numbers["intervals"][name]
        model_low, model_high = numbers["model_intervals"][name]
        yield {
            "parameter": name,
            "value": value,
            "profile_low": low,
            "profile_high": high,
            "model_low": model_low,
            "model_high": model_high,
        }


def _held_out_rows(law: str, points: pl.DataFrame) -> Iterator[dict]:
    for column in ("pair", "small"):
        predicted_P = held_out_predictions(law, *columns(points), others(points[column].to_numpy()))
        if predicted_P is None:
            continue
        rows = points.select("pair", "small_b", "large_b", "cof").to_dicts()
        for row, predicted in zip(rows, predicted_P.tolist(), strict=True):
            yield row | {"held_out": column, "predicted": predicted}


def _curve_rows(law: str, points: pl.DataFrame, params: dict[str, float]) -> Iterator[dict]:
    """The law for every small model of the series, from the nearest to the farthest large size fitted."""
    nearest, furthest = points["large_b"].min(), points["large_b"].max()
    for small_b in points["small_b"].unique().sort():
        large_G = np.geomspace(max(nearest, small_b), furthest, GRID)
        cof_G = LAWS[law].predict(np.full(GRID, small_b), large_G, **params)
        for large_b, cof in zip(large_G.tolist(), cof_G.tolist(), strict=True):
            yield {"small_b": small_b, "large_b": large_b, "cof": cof}


def claims(points: pl.DataFrame) -> list[dict]:
    """How many pairs lie above `CLAIMED_COF`: by series, by method, and all together."""
    groups = [((method, dataset), group) for method, dataset, group in series_of(points)]
    methods = points.sort("method").group_by("method", maintain_order=True)
    groups += [((method, "all"), group) for (method,), group in methods]
    return [_claim(*key, group) for key, group in [*groups, (("all", "all"), points)] if len(group)]


def _claim(method: str, dataset: str, points: pl.DataFrame) -> dict:
    pairs, above = len(points), int((points["cof"] > CLAIMED_COF).sum())
    share = intervals.wilson(above, pairs)
    return {
        "method": method,
        "dataset": dataset,
        "pairs": pairs,
        "above": above,
        "share": share.value,
        "share_low": share.low,
        "share_high": share.high,
    }


def write_tables(folder: Path, rows: dict[str, list[dict]], schemas: dict[str, pa.Schema]) -> None:
    """One Parquet file a table; the folder appears whole."""
    with files.atomic_folder(folder) as part:
        for name, columns_ in schemas.items():
            parquet.write(part / f"{name}.parquet", rows[name], columns_)
