"""CoF of a pair that nobody has run, with an interval that speaks of two models never seen.

Shape legend: P pairs, 2 their models.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.stats import t

from fsgen.analysis.scaling.law_intervals import IDENTIFIED_FROM
from fsgen.analysis.scaling.laws import LAWS, fit_parameters, held_out_predictions, rmse
from fsgen.errors import UserError
from fsgen.tables import parquet, paths

# two_size errs least, on average and in two of the four published series that can lose both models of any
# pair; log_ratio needs fewer pairs and stands in where two_size cannot lose two models
PREFERRED = ("two_size", "log_ratio")
POINTS = {
    "dumps": paths.laws("dumps") / "scaling_points.parquet",
    "published": paths.laws("published") / "scaling_points.parquet",
}
SIZES = {"dumps": "non-embedding parameters", "published": "nominal sizes"}
# by law and number of models, the share of pairs of unseen models that a nominal 95 % interval held: as
# benchmarks/results/coverage/coverage_laws.json keeps it, with errors as the published series have them
COVERAGE = {
    "two_size": {6: 0.985, 7: 0.986, 10: 0.972},
    "log_ratio": {6: 0.991, 7: 0.989, 10: 0.987},
}

HELD = ("method", "dataset", "pair", "small_total_b", "large_total_b", "cof", "cof_low", "cof_high")


class Prediction(NamedTuple):
    """CoF of an unseen pair; low and high are None where nothing is identified."""

    value: float
    low: float | None
    high: float | None
    extrapolations: list[str]
    """A sentence for every size or ratio outside the pairs that were fitted."""
    law: str
    models: int
    """Distinct models behind the fit."""


class PredictionReport(NamedTuple):
    """A prediction with what it rests on."""

    prediction: Prediction
    source: str
    """`dumps` or `published`, a key of `POINTS`."""
    pairs: int
    level: float

    def __str__(self) -> str:
        """For a terminal: value, interval with its nominal and measured coverage, source, warnings."""
        result = self.prediction
        lines = [f"CoF {result.value:.1%}, {_interval(result, self.level)}."]
        owner = "this project's own dumps" if self.source == "dumps" else "the published table"
        lines.append(
            f"It rests on {owner}: {self.pairs} pairs of {result.models} models, law {result.law}; "
            f"sizes are {SIZES[self.source]}."
        )
        return "\n".join(lines + [f"Extrapolation: {sentence}" for sentence in result.extrapolations])


def predict(
    points: pl.DataFrame, law: str, large_b: float, small_b: float, level: float = 0.95
) -> Prediction | None:
    """CoF by this law for models of `large_b` and `small_b` billion parameters.

    `points` are one series' rows of scaling_points. The half width is t at M - 1 degrees of freedom, M
    being the distinct models, times the root mean square error of predicting each pair from the pairs
    that touch neither of its models. The interval is None below `IDENTIFIED_FROM` models and where too
    few pairs are left without some two models; the whole prediction where the law is not determined.
    """
    data = [points[name].to_numpy().astype(np.float64) for name in ("small_b", "large_b", "cof")]
    params_K = fit_parameters(law, *data)
    if params_K is None:
        return None
    value = float(LAWS[law].predict(small_b, large_b, *params_K))
    names_P2 = points.select("small", "large").to_numpy()
    models = len(np.unique(names_P2))
    error = (
        rmse(held_out_predictions(law, *data, ~shares_model(names_P2)), data[2])
        if models >= IDENTIFIED_FROM
        else None
    )
    half = None if error is None else float(t.ppf((1 + level) / 2, models - 1)) * error
    low, high = (None, None) if half is None else (value - half, value + half)
    return Prediction(value, low, high, _outside(*data[:2], small_b, large_b), law, models)


def compare_with_measured(known: pl.DataFrame, measured: pl.DataFrame, level: float = 0.95) -> list[dict]:
    """Predictions of every law fitted to `known` for the pairs of `measured`, with their measured CoF.

    Both are points; a pair is held against the series with its method's and its dataset's name. The
    published table gives nominal sizes, so its laws take all parameters of the models. Rows
    have the columns of the view `scaling_predictions`; a law that its series does not determine has none.
    """
    rows = []
    for pair in measured.sort("method", "dataset", "pair").to_dicts():
        series = known.filter(method=pair["method"], dataset=pair["dataset"])
        for law in LAWS:
            result = predict(series, law, pair["large_total_b"], pair["small_total_b"], level)
            if result is not None:
                rows.append(
                    {name: pair[name] for name in HELD} | {"law": law} | _prediction_columns(result, pair)
                )
    return rows


def _prediction_columns(result: Prediction, pair: dict) -> dict:
    """A prediction, and whether what was measured agrees with it."""
    within_interval = intervals_overlap = None
    if result.low is not None and result.high is not None:
        within_interval = result.low <= pair["cof"] <= result.high
        intervals_overlap = pair["cof_low"] <= result.high and result.low <= pair["cof_high"]
    return {
        "models": result.models,
        "predicted": result.value,
        "predicted_low": result.low,
        "predicted_high": result.high,
        "within_interval": within_interval,
        "intervals_overlap": intervals_overlap,
        "extrapolation_note": " ".join(result.extrapolations),
    }


def shares_model(names_P2: np.ndarray) -> np.ndarray:
    """Whether two pairs share a model in any role, [P, P]."""
    return (names_P2[:, None, :, None] == names_P2[None, :, None, :]).any(axis=(2, 3))


def _outside(small_P, large_P, small_b: float, large_b: float) -> list[str]:
    requested = {
        "small size": (small_b, small_P, " billion"),
        "large size": (large_b, large_P, " billion"),
        "size ratio": (large_b / small_b, large_P / small_P, ""),
    }
    return [
        f"the {what} {value:.3g}{unit} is outside the {held_P.min():.3g} to {held_P.max():.3g}{unit} fitted."
        for what, (value, held_P, unit) in requested.items()
        if not held_P.min() * (1 - 1e-9) <= value <= held_P.max() * (1 + 1e-9)
    ]


def predict_pair(
    method: str, dataset: str, large: float, small: float, level: float = 0.95
) -> PredictionReport:
    """Prediction for models of `large` and `small` parameters (counts: 70e9).

    Rests on the project's own dumps where they identify the series, else on the published table, else
    on the dumps without an interval. Raises UserError, naming the known series, where neither holds it,
    and on sizes that are no small and large model.
    """
    if not 0 < small < large < np.inf:
        raise UserError(
            f"A pair should have 0 < small < large parameters, got {small:g} and {large:g}; "
            "give counts such as --small 1.5e9 --large 70e9."
        )
    known = {source: parquet.read(path) for source, path in POINTS.items() if path.is_file()}
    reports = []
    for source, points in known.items():
        series = points.filter(method=method, dataset=dataset)
        if result := _by_preference(series, large / 1e9, small / 1e9, level):
            reports.append(PredictionReport(result, source, len(series), level))
    if not reports:
        raise UserError(
            f"There are too few pairs to predict {method} on {dataset}; known series are {_listed(known)}."
        )
    return next((each for each in reports if each.prediction.models >= IDENTIFIED_FROM), reports[0])


def _by_preference(series: pl.DataFrame, large_b: float, small_b: float, level: float) -> Prediction | None:
    """By the first law that gives an interval, or else the first that gives a value."""
    result = [predict(series, law, large_b, small_b, level) for law in PREFERRED]
    result = [each for each in result if each is not None]
    return next((each for each in result if each.low is not None), result[0] if result else None)


def _listed(known: dict[str, pl.DataFrame]) -> str:
    names = [
        f"{method} on {dataset} ({source})"
        for source, points in known.items()
        for method, dataset in points.select("method", "dataset").unique().sort("method", "dataset").rows()
    ]
    return ", ".join(names) or "none yet (run 'dvc repro scaling published')"


def _interval(result: Prediction, level: float) -> str:
    """The interval in words; a CoF is a share, so ends beyond 0 and 1 say no more than these."""
    if result.models < IDENTIFIED_FROM:
        return f"not identified: {result.models} distinct models, an interval needs {IDENTIFIED_FROM}"
    if result.low is None:
        return "no interval: too few pairs are left without some two of the models"
    low, high = max(result.low, 0.0), min(result.high, 1.0)
    measured = ", ".join(
        f"{share:.1%} with {models} models" for models, share in COVERAGE[result.law].items()
    )
    return (
        f"{level:.0%} interval for two unseen models {low:.1%} to {high:.1%} "
        f"(measured coverage of nominal 95% in simulation: {measured})"
    )
