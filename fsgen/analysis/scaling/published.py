"""What the table published with FS-GEN supports: the laws refitted, and its claims counted."""

from pathlib import Path

import polars as pl

from fsgen.analysis.scaling import series
from fsgen.analysis.scaling.laws import LAWS, held_out_predictions, rmse
from fsgen.analysis.scaling.prediction import shares_model
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.tables import files, paths
from fsgen.tables.schemas.scaling import CLAIMED_COF, SERIES_TABLES

TEXTS, NUMBERS = ("method", "dataset"), ("large_b", "small_b", "cof")


def write_published(path: Path) -> None:
    """Write metrics/published.json and data/scaling/published/ from the published table."""
    points = read_points(path)
    described = {(m, d): series.describe(group) for m, d, group in series.series_of(points)}
    claims = series.claims(points)
    rows = {"scaling_points": points.to_dicts(), "scaling_claims": claims} | series.tables(points, described)
    out = paths.laws("published")
    series.write_tables(out, rows, SERIES_TABLES)
    path = files.write_metrics("published", summary(points, described, claims))
    console.done(f"{path} and {out}/: {len(LAWS)} laws for {len(described)} series")


def read_points(path: Path) -> pl.DataFrame:
    """The table as points; models are named by their nominal sizes. Raises UserError where a cell is bad."""
    if not path.is_file():
        raise UserError(f"There is no published table at {path}; restore the file.")
    try:
        table = pl.read_csv(path, comment_prefix="#", infer_schema_length=None)
        table = table.select(*TEXTS, *(pl.col(name).cast(pl.Float64) for name in NUMBERS))
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"{path} should hold the columns {', '.join(TEXTS + NUMBERS)} with numbers in the last three, "
            f"got: {str(error).splitlines()[0]}; restore the file."
        ) from error
    bad = table.filter(
        ~(pl.col("small_b").is_between(0, pl.col("large_b"), closed="none") & pl.col("cof").is_between(0, 1))
        | pl.any_horizontal(pl.all().is_null())
    )
    if len(bad) or not len(table):
        raise UserError(
            f"{path} should hold 0 < small_b < large_b and a cof within 0 and 1 in every row, "
            f"got {bad.row(0) if len(bad) else 'no row'}; restore the file."
        )
    small, large = (
        pl.format("{}B", (pl.col(name)).map_elements(_number, pl.String)) for name in NUMBERS[1::-1]
    )
    return table.with_columns(
        pair=pl.format("{}-{}", small, large),
        small=pl.format("Qwen1.5-{}", small),
        large=pl.format("Qwen1.5-{}", large),
        small_total_b=pl.col("small_b"),
        large_total_b=pl.col("large_b"),
        **{name: pl.lit(None, pl.Float64) for name in ("small_entropy", "cof_low", "cof_high")},
        **{name: pl.lit(None, pl.Int64) for name in ("tokens", "prompts")},
    ).sort("method", "dataset", "pair")


def _number(size: float) -> str:
    return f"{size:g}"


def summary(points: pl.DataFrame, described: dict, claims: list[dict]) -> dict:
    """The content of metrics/published.json."""
    described_series = {}
    for method, dataset, group in series.series_of(points):
        described_series[f"{method}/{dataset}"] = {"pairs": len(group), "laws": described[method, dataset]}
    return {"series": described_series, "claim": _claim(claims), "comparison": comparison(points, described)}


def _claim(claims: list[dict]) -> dict:
    counted = {
        (row["method"], row["dataset"]): {k: v for k, v in row.items() if k not in TEXTS} for row in claims
    }
    return {
        **counted.pop(("all", "all")),
        "threshold": CLAIMED_COF,
        "by_method": {method: claim for (method, dataset), claim in counted.items() if dataset == "all"},
        "by_series": {f"{m}/{d}": claim for (m, d), claim in counted.items() if d != "all"},
    }


def comparison(points: pl.DataFrame, described: dict) -> dict:
    """Number of series in which each law is best, and how the authors' law compares with the others."""
    fits = list(described.values())
    powers = [laws["power"] for laws in fits]
    at_one = [power["params"]["b"] - power["params"]["a"] for power in powers]
    return {
        "series": len(fits),
        **{f"lowest_{key}": _best(fits, key) for key in ("aicc", "loo_rmse", "small_out_rmse")},
        "log_ratio_aicc_below_power": sum(f["log_ratio"]["aicc"] < f["power"]["aicc"] for f in fits),
        "two_size_r2_above_power": sum(f["two_size"]["r2"] > f["power"]["r2"] for f in fits),
        "power_at_bound": sum(power["at_bound"] for power in powers),
        "alpha_may_be_0": sum(_holds_0(*power["intervals"]["alpha"]) for power in powers),
        "power_at_ratio_1": [min(at_one), max(at_one)],
        "both_models_out_rmse": _both_models_out(points),
    }


def _best(fits: list[dict], key: str) -> dict[str, int]:
    """By law, the series in which it has the least of `key` among the laws that have any."""
    best = [
        min((law for law in LAWS if laws[law][key] is not None), key=lambda law: laws[law][key])
        for laws in fits
    ]
    return {law: best.count(law) for law in LAWS}


def _holds_0(low: float | None, high: float | None) -> bool:
    return (low is None or low <= 0) and (high is None or high >= 0)


def _both_models_out(points: pl.DataFrame) -> dict[str, dict[str, float | None]]:
    """Error of predicting each pair from those that share no model with it."""
    errors = {}
    for method, dataset, group in series.series_of(points):
        kept_PP = ~shares_model(group.select("small", "large").to_numpy())
        data = series.columns(group)
        errors[f"{method}/{dataset}"] = {
            law: rmse(held_out_predictions(law, *data, kept_PP), data.cof_P) for law in LAWS
        }
    return errors
