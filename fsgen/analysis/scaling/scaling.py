"""The laws of CoF over this project's dumps, and whether the small model's entropy predicts better.

Shape legend: P pairs, X regressors.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.analysis.scaling import series
from fsgen.analysis.scaling.law_intervals import IDENTIFIED_FROM
from fsgen.analysis.scaling.laws import LAWS, rmse
from fsgen.analysis.scaling.prediction import compare_with_measured
from fsgen.config.schema import PairConfig, Settings
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.scaling import TABLES

SERIES_KEYS = {"covariates": "scaling_covariates", "predictions": "scaling_predictions"}  # key: table
PREDICTORS = {
    "sizes": ("large_b", "small_b"),
    "entropy": ("small_entropy",),
    "both": ("large_b", "small_b", "small_entropy"),
}


def write_scaling(settings: Settings) -> None:
    """Write metrics/scaling.json and data/scaling/dumps/ from every evaluated dataset."""
    metrics = {name: files.read_metrics(paths.counts(name) / "metrics.json") for name in settings.datasets}
    points = pool(metrics, small_entropies(settings.datasets, settings.pairs.values()))
    described = {(m, d): series.describe(group) for m, d, group in series.series_of(points)}
    published = parquet.read(paths.laws("published") / "scaling_points.parquet")
    drafting = [name for name, method in settings.methods.items() if method.definition.drafts]
    rows = {
        "scaling_points": points.to_dicts(),
        "scaling_covariates": [row for one in series.series_of(points) for row in covariates(*one)],
        "scaling_predictions": compare_with_measured(published, points),
        # a method that drafts has the CoF of the oracle, which must not count twice
        "scaling_claims": series.claims(points.filter(~pl.col("method").is_in(drafting))),
        **series.tables(points, described),
    }
    out = paths.laws("dumps")
    series.write_tables(out, rows, TABLES)
    path = files.write_metrics("scaling", scaling_table(metrics, points, described, rows))
    console.done(f"{path} and {out}/: {len(LAWS)} laws for {len(described)} series")


def small_entropies(datasets: Iterable[str], pairs: Iterable[PairConfig]) -> dict[tuple[str, str], float]:
    """Mean entropy in nats of (dataset, model) over the answers it wrote to test prompts, per token.

    A model without a dump on a dataset, or without a token there, is left out.
    """
    models = sorted({pair.small for pair in pairs})
    means = {(dataset, model): _mean_entropy(dataset, model) for dataset in datasets for model in models}
    return {key: mean for key, mean in means.items() if mean is not None}


def _mean_entropy(dataset: str, model: str) -> float | None:
    """Of the tokens that a model chose in its answers to test prompts; None without any."""
    folder = paths.dumps(model, dataset)
    if not any(folder.glob("tokens-*.parquet")):
        return None
    prompts = parquet.read(paths.prompts(dataset), ["prompt_id", "split"])
    tested = prompts.filter(split="test")["prompt_id"]
    tokens = parquet.scan(folder / "tokens-*.parquet").filter(
        pl.col("in_answer"), ~pl.col("from_template"), pl.col("prompt_id").is_in(tested.implode())
    )
    entropy_N = tokens.select("entropy").collect()["entropy"].to_numpy()
    return float(entropy_N.astype(np.float64).mean()) if len(entropy_N) else None


def pool(
    metrics: Mapping[str, Mapping], entropies: Mapping[tuple[str, str], float] | None = None
) -> pl.DataFrame:
    """The points of every dataset, method and pair, as the view scaling_points holds them.

    `metrics` maps datasets to what metrics/<dataset>.json holds. Sizes that laws use are non-embedding.
    Raises UserError on a pair whose models' parameters are missing.
    """
    rows = []
    for dataset, content in metrics.items():
        for name, pair in content["pairs"].items():
            sizes = _sizes(dataset, content["models"], name, pair)
            entropy = (entropies or {}).get((dataset, pair["small"]))
            rows += [_point(dataset, name, pair, method, sizes, entropy) for method in pair["cof"]]
    points = pl.from_arrow(pa.Table.from_pylist(rows, schema=TABLES["scaling_points"]))
    return points.sort("method", "dataset", "pair")


def _point(
    dataset: str, name: str, pair: Mapping, method: str, sizes: dict[str, float], entropy: float | None
) -> dict:
    """A row of scaling_points: one pair's CoF by one method; `pair` is its object in the metrics."""
    cof = pair["cof"][method]
    return {
        "method": method,
        "dataset": dataset,
        "pair": name,
        "small": pair["small"],
        "large": pair["large"],
        **sizes,
        "small_entropy": entropy,
        "cof": cof["value"],
        "cof_low": cof["low"],
        "cof_high": cof["high"],
        "tokens": cof["tokens"],
        "prompts": cof["prompts"],
    }


def _sizes(dataset: str, models: Mapping[str, Mapping], name: str, pair: Mapping) -> dict[str, float]:
    """Both models' parameters in billions, as columns of scaling_points."""
    sizes = {}
    for role in ("small", "large"):
        for key, column in (("parameters", f"{role}_b"), ("total_parameters", f"{role}_total_b")):
            parameters = models.get(pair[role], {}).get(key)
            if not parameters:
                raise UserError(
                    f"metrics/{dataset}.json should give the {key} of '{pair[role]}', the {role} "
                    f"model of {name}, got {parameters}; rerun the stages 'model' and 'evaluate'."
                )
            sizes[column] = parameters / 1e9
    return sizes


def scaling_table(
    metrics: Mapping[str, Mapping], points: pl.DataFrame, described: dict, rows: Mapping[str, list[dict]]
) -> dict:
    """Points and laws of every dataset and method, as metrics/scaling.json holds them.

    `rows` holds those of scaling_covariates and scaling_predictions.
    """
    table: dict[str, dict] = {dataset: {} for dataset in sorted(metrics)}
    for method, dataset, group in series.series_of(points):
        of_series = {
            name: [row for row in rows[table] if (row["method"], row["dataset"]) == (method, dataset)]
            for name, table in SERIES_KEYS.items()
        }
        table[dataset][method] = _series_json(group, described[method, dataset], **of_series)
    return table


def _series_json(
    points: pl.DataFrame, laws: dict[str, dict], covariates: list[dict], predictions: list[dict]
) -> dict:
    """The numbers of one method on one dataset.

    `identified` says whether enough distinct models stand behind the points; below that a law
    describes them and no others.
    """
    models = series.count_models(points)
    return {
        "pairs": len(points),
        "models": models,
        "identified": models >= IDENTIFIED_FROM,
        "points": points.select(
            "pair", "cof", "cof_low", "cof_high", small="small_b", large="large_b"
        ).to_dicts(),
        "laws": laws,
        "covariates": {row["predictor"]: row for row in covariates},
        "predictions": predictions,
    }


def covariates(method: str, dataset: str, points: pl.DataFrame) -> list[dict]:
    """Errors of linear fits of CoF on sizes, on the small model's entropy and on both.

    Predicted are pairs, or all pairs of a small model, from the others; None where some fit
    is not determined, or no entropy is known.
    """
    cof_P, small_P = points["cof"].to_numpy(), points["small"].to_numpy()
    without_pair_PP, without_small_PP = series.others(np.arange(len(cof_P))), series.others(small_P)
    rows = []
    for predictor, names in PREDICTORS.items():
        row = {"method": method, "dataset": dataset, "predictor": predictor, "pairs": len(points)}
        row |= {"loo_rmse": None, "small_out_rmse": None}
        if not points.select(names).null_count().sum_horizontal().item():
            regressors_PX = _regressors(points, names)
            row["loo_rmse"] = rmse(_held_out(regressors_PX, cof_P, without_pair_PP), cof_P)
            row["small_out_rmse"] = rmse(_held_out(regressors_PX, cof_P, without_small_PP), cof_P)
        rows.append(row)
    return rows


def _regressors(points: pl.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    """A column of ones, then sizes in logarithms and entropies as they are, [P, X]."""
    columns = [np.log10(points[n]) if n.endswith("_b") else points[n].to_numpy() for n in names]
    return np.column_stack([np.ones(len(points)), *columns])


def _held_out(regressors_PX: np.ndarray, cof_P: np.ndarray, kept_PP: np.ndarray) -> np.ndarray | None:
    """Each pair's CoF [P] by a linear fit to the pairs that its row of `kept_PP` keeps; None if one fails."""
    predicted_P = np.empty(len(cof_P))
    for out, kept_P in enumerate(kept_PP):
        kept_KX = regressors_PX[kept_P]
        if len(kept_KX) <= kept_KX.shape[1] or np.linalg.matrix_rank(kept_KX) < kept_KX.shape[1]:
            return None
        predicted_P[out] = regressors_PX[out] @ np.linalg.lstsq(kept_KX, cof_P[kept_P], rcond=None)[0]
    return predicted_P
