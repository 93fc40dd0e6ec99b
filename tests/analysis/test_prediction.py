"""Tests of `law_intervals` and `prediction`: intervals as slow code gives them, or none."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.optimize import least_squares
from scipy.stats import f as f_distribution
from scipy.stats import t

from fsgen.analysis.scaling import law_intervals, laws, prediction
from fsgen.errors import UserError
from fsgen.tables import parquet
from fsgen.tables.schemas.scaling import SERIES_TABLES

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("coverage_laws", ROOT / "benchmarks" / "coverage_laws.py")
coverage_laws = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(coverage_laws)
NAMES = np.array(["a", "b", "c", "d", "e", "f", "g"])
SIZES = np.array([0.5, 1.8, 4.0, 7.0, 14.0, 32.0, 72.0])


def series(models=7, seed=0, cof=None):
    """Points of every pair of so many models, with crossed errors around a law of both sizes."""
    small, large = np.triu_indices(models, 1)
    generator = np.random.default_rng(seed)
    if cof is None:
        cof = 0.12 + 0.03 * np.log10(SIZES[large]) - 0.05 * np.log10(SIZES[small])
        cof = cof + generator.normal(0, 0.01, models)[large] + generator.normal(0, 0.005, len(small))
    columns = {"small": NAMES[small], "large": NAMES[large], "small_b": SIZES[small], "large_b": SIZES[large]}
    return pl.DataFrame(columns | {"cof": cof, "method": "oracle", "dataset": "toy"})


def data(points):
    return [points[name].to_numpy() for name in ("small_b", "large_b", "cof")]


@pytest.mark.parametrize("law", ["log_ratio", "two_size"])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_profile_of_a_linear_law_is_the_textbook_t_interval(law, level):
    """Estimate +- t sqrt(s2 (X'X)^-1)."""
    small_P, large_P, cof_P = data(series())
    columns_PK = np.column_stack(laws.LAWS[law].terms(small_P, large_P))
    params_K, (squares,), *_ = np.linalg.lstsq(columns_PK, cof_P, rcond=None)
    spare = len(cof_P) - len(params_K)
    error_K = np.sqrt(squares / spare * np.diag(np.linalg.inv(columns_PK.T @ columns_PK)))
    half_K = t.ppf((1 + level) / 2, spare) * error_K
    ends = np.array(list(law_intervals.profile(law, small_P, large_P, cof_P, level).values()))

    assert ends == pytest.approx(np.column_stack([params_K - half_K, params_K + half_K]), rel=1e-6)


def noisy(law, truth, scale=0.001):
    points = series()
    small_P, large_P, _ = data(points)
    curve_P = laws.LAWS[law].predict(small_P, large_P, *truth)
    return small_P, large_P, curve_P + np.random.default_rng(3).normal(0, scale, len(curve_P))


@pytest.mark.parametrize(
    ("law", "truth"), [("power", (0.3, 0.8, 0.35)), ("product", (0.09, 0.1, 0.3)), ("gap", (0.15, 0.5))]
)
def test_the_profile_of_a_curved_law_ends_where_no_refit_stays_below_the_threshold(law, truth):
    """At an end a general minimiser over the other parameters leaves exactly RSS (1 + F / (n - K))."""
    small_P, large_P, cof_P = noisy(law, truth)
    rule, ends = laws.LAWS[law], law_intervals.profile(law, small_P, large_P, cof_P)

    def squares(at, fixed):
        def residual(free_J):
            return rule.predict(small_P, large_P, *np.insert(free_J, at, fixed)) - cof_P

        start_J = np.delete(laws.fit_parameters(law, small_P, large_P, cof_P), at)
        return 2 * least_squares(residual, start_J, method="lm", xtol=1e-13, ftol=1e-13).cost

    spare = len(cof_P) - len(truth)
    best_K = laws.fit_parameters(law, small_P, large_P, cof_P)
    least = ((rule.predict(small_P, large_P, *best_K) - cof_P) ** 2).sum()
    for at, (name, true) in enumerate(zip(rule.parameters, truth, strict=True)):
        assert ends[name].low < true < ends[name].high
        for end in ends[name]:
            expected = least * (1 + f_distribution.ppf(0.95, 1, spare) / spare)
            assert squares(at, end) == pytest.approx(expected, rel=1e-3)


def test_alpha_is_profiled_through_its_logarithmic_limit_and_then_a_and_b_have_no_ends():
    """On points that a logarithm made, alpha's interval holds 0, where a and b are infinite."""
    small_P, large_P, cof_P = noisy("log_ratio", (0.05, 0.04), 0.003)
    result = law_intervals.profile("power", small_P, large_P, cof_P)

    assert result["alpha"].low < 0 < result["alpha"].high
    assert result["a"] == result["b"] == (None, None)


def test_an_exponent_that_points_do_not_bound_has_no_end():
    """CoF without any relation to sizes is fitted as well by a step as by a line."""
    small_P, large_P, _ = data(series(4))
    cof_P = np.array([0.1, 0.14, 0.11, 0.13, 0.1, 0.12])

    assert None in law_intervals.profile("power", small_P, large_P, cof_P)["alpha"]


def test_points_too_few_for_a_law_give_its_parameters_no_ends():
    """As `fit` refuses them."""
    small_P, large_P, cof_P = (x[:3] for x in data(series()))

    assert set(law_intervals.profile("two_size", small_P, large_P, cof_P).values()) == {(None, None)}


def test_the_jackknife_is_the_loop_over_models():
    """(M - 1) / M times the squared deviations of the refits, at M - 1 degrees of freedom."""
    points = series(6)
    names_P2 = points.select("small", "large").to_numpy()
    refits = []
    for name in NAMES[:6]:
        left = points.filter((pl.col("small") != name) & (pl.col("large") != name))
        refits.append(list(laws.fit("two_size", *data(left)).params.values()))
    away = np.array(refits) - np.mean(refits, axis=0)
    half_K = t.ppf(0.975, 5) * np.sqrt(5 / 6 * (away**2).sum(axis=0))
    value_K = np.array(list(laws.fit("two_size", *data(points)).params.values()))
    ends = np.array(list(law_intervals.jackknife("two_size", *data(points), names_P2).values()))

    assert ends == pytest.approx(np.column_stack([value_K - half_K, value_K + half_K]))


def test_five_models_or_a_bound_identify_no_parameter():
    """The authors' bound says where a fit stopped, not what other models would give."""
    five, bent = (
        series(5),
        series(7).with_columns(cof=0.02 + 0.03 * np.log10(pl.col("large_b") / pl.col("small_b")) ** 2),
    )
    for law, points in (("two_size", five), ("power", bent)):
        names_P2 = points.select("small", "large").to_numpy()
        assert set(law_intervals.jackknife(law, *data(points), names_P2).values()) == {(None, None)}


@pytest.mark.parametrize("seed", [49, 51])
def test_a_refit_in_another_minimum_leaves_ends_that_can_be_searched(seed):
    """The sign at a bracket's ends once changed when they were computed again, which ended the search."""
    rng = np.random.default_rng(seed)
    pairs = int(rng.integers(5, 12))
    small_P = 10 ** rng.uniform(-1, 1, pairs)
    large_P = small_P * 10 ** rng.uniform(0.1, 2, pairs)
    noise_P = rng.normal(0, 0.05, pairs)
    cof_P = np.clip(0.05 + 0.05 * np.log10(large_P / small_P) + noise_P, 0.001, 1)
    estimate = laws.fit("product", small_P, large_P, cof_P).params
    bounds = law_intervals.profile("product", small_P, large_P, cof_P)

    assert bounds["p"].high is None
    for name, value in estimate.items():
        assert bounds[name].low <= value
        assert bounds[name].high is None or value <= bounds[name].high


def test_an_interval_rests_on_pairs_that_lost_both_their_models():
    """Root mean square of explicit refits without either model, times t at M - 1."""
    points = series()
    squares = []
    for row in points.iter_rows(named=True):
        pair = [row["small"], row["large"]]
        left = points.filter(~pl.col("small").is_in(pair) & ~pl.col("large").is_in(pair))
        params = laws.fit("two_size", *data(left)).params
        squares.append((row["cof"] - laws.two_size(row["small_b"], row["large_b"], **params)) ** 2)
    half = t.ppf(0.95, 6) * np.sqrt(np.mean(squares))
    result = prediction.predict(points, "two_size", 20.0, 2.0, level=0.9)

    assert result.value == pytest.approx(
        laws.two_size(2.0, 20.0, **laws.fit("two_size", *data(points)).params)
    )
    assert (result.low, result.high) == pytest.approx((result.value - half, result.value + half))
    assert (result.extrapolations, result.models) == ([], 7)


def test_below_six_models_there_is_a_value_without_an_interval():
    """Five models make ten pairs, yet say nothing of others."""
    result = prediction.predict(series(5), "two_size", 7.0, 1.8)

    assert (result.low, result.high, result.models) == (None, None, 5)
    assert 0.05 < result.value < 0.2
    assert prediction.predict(series(2), "two_size", 7.0, 1.8) is None


def measured(cof, low, high, dataset="toy"):
    """One pair of our own, as scaling_points holds it."""
    sizes = {"small_total_b": 2.0, "large_total_b": 20.0}
    names = {"pair": "mine", "method": "oracle", "dataset": dataset}
    return pl.DataFrame([names | sizes | {"cof": cof, "cof_low": low, "cof_high": high}])


@pytest.mark.long
def test_an_own_pair_is_held_against_every_law_of_the_series_with_its_name():
    """Each law's value and interval are those of `predict`; other methods and datasets predict nothing."""
    known = pl.concat([series(), series().with_columns(method=pl.lit("proxy"))])
    rows = prediction.compare_with_measured(known, measured(0.1, 0.09, 0.11))

    assert {row["law"] for row in rows} == set(laws.LAWS)
    for row in rows:
        result = prediction.predict(series(), row["law"], 20.0, 2.0)
        reported = (row["predicted"], row["predicted_low"], row["predicted_high"], row["models"])
        assert reported == (result.value, result.low, result.high, 7)
    assert prediction.compare_with_measured(known, measured(0.1, 0.09, 0.11, dataset="other")) == []


@pytest.mark.long
def test_two_intervals_agree_where_they_share_a_number():
    """What was measured may lie outside the prediction and yet its interval reach into it."""
    (result,) = [prediction.predict(series(), "two_size", 20.0, 2.0)]
    beyond = result.high + 0.01
    cases = {
        (result.value, result.value - 0.01, result.value + 0.01): (True, True),
        (beyond, result.high - 0.001, beyond + 0.02): (False, True),
        (beyond, result.high + 0.001, beyond + 0.02): (False, False),
    }
    for pair, expected in cases.items():
        rows = prediction.compare_with_measured(series(), measured(*pair))
        (reported,) = [row for row in rows if row["law"] == "two_size"]
        assert (reported["within_interval"], reported["intervals_overlap"]) == expected


def test_a_prediction_without_an_interval_agrees_with_nothing_and_contradicts_nothing():
    """Five models identify no interval."""
    rows = prediction.compare_with_measured(series(5), measured(0.1, 0.09, 0.11))

    columns = ("predicted_low", "within_interval", "intervals_overlap")
    assert {tuple(row[column] for column in columns) for row in rows} == {(None, None, None)}


@pytest.mark.parametrize(
    ("large", "small", "message"),
    [
        (14.0, 0.5, []),
        (200.0, 2.0, ["large size 200 billion"]),
        (20.0, 0.1, ["small size 0.1 billion", "size ratio 200 "]),
        (7.0, 6.9, ["size ratio 1.01 "]),
    ],
)
def test_what_lies_outside_the_fitted_pairs_is_said(large, small, message):
    """One sentence for each of small size, large size and their ratio."""
    reported = prediction.predict(series(), "two_size", large, small).extrapolations

    assert len(reported) == len(message)
    assert all(word in sentence for word, sentence in zip(message, reported, strict=True))


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Point tables of both bases; returns a function that writes one."""
    paths = {source: tmp_path / f"{source}.parquet" for source in prediction.POINTS}
    monkeypatch.setattr(prediction, "POINTS", paths)

    def write(source, points):
        whole = points.with_columns(
            [
                pl.lit(None, pl.Null).alias(n)
                for n in SERIES_TABLES["scaling_points"].names
                if n not in points.columns
            ]
        )
        parquet.write(paths[source], whole, SERIES_TABLES["scaling_points"])

    return write


def test_own_dumps_are_preferred_where_they_identify_the_series(known):
    """Six models of one's own, else the published table, else one's own without an interval."""
    known("published", series(7))
    known("dumps", series(6))
    assert prediction.predict_pair("oracle", "toy", 20e9, 2e9).source == "dumps"

    known("dumps", series(5))
    assert prediction.predict_pair("oracle", "toy", 20e9, 2e9).source == "published"

    known("published", series(7).with_columns(method=pl.lit("proxy")))
    reported = prediction.predict_pair("oracle", "toy", 20e9, 2e9)
    assert reported.source == "dumps"
    assert "not identified: 5 distinct models" in str(reported)


def test_the_answer_tells_interval_coverage_source_and_extrapolation(known):
    """All that a reader needs in order not to trust it too much."""
    known("published", series(7))
    reported = str(prediction.predict_pair("oracle", "toy", 200e9, 2e9))

    assert "95% interval" in reported
    assert (
        "measured coverage of nominal 95% in simulation: 98.5% with 6 models, 98.6% with 7 models" in reported
    )
    assert "published table: 21 pairs of 7 models, law two_size; sizes are nominal" in reported
    assert "Extrapolation: the large size 200 billion" in reported


def test_too_few_pairs_for_the_law_of_both_sizes_fall_to_the_law_of_the_ratio(known):
    """Twelve pairs of six models cannot lose two of these and still tell three parameters."""
    far = (pl.col("large") == "f") & pl.col("small").is_in(["c", "d"])
    known("published", series(6).filter((pl.col("small") != "e") & ~far))
    reported = prediction.predict_pair("oracle", "toy", 20e9, 2e9)

    assert reported.prediction.law == "log_ratio"
    assert reported.prediction.low < reported.prediction.value < reported.prediction.high


def test_what_cannot_be_foretold_is_refused_with_what_can(known):
    """Nothing written, an unknown series, and sizes that are no pair."""
    with pytest.raises(UserError, match=r"none yet \(run 'dvc repro scaling published'\)"):
        prediction.predict_pair("oracle", "toy", 20e9, 2e9)
    known("published", series(7))
    with pytest.raises(UserError, match=r"average on toy; known series are oracle on toy \(published\)"):
        prediction.predict_pair("average", "toy", 20e9, 2e9)
    for large, small in ((2e9, 2e9), (2e9, 0.0), (np.inf, 2e9), (2e9, np.nan)):
        with pytest.raises(UserError, match="0 < small < large"):
            prediction.predict_pair("oracle", "toy", large, small)


def test_the_coverage_told_is_the_one_kept():
    """Every law and number of models that the benchmark measured, to the digits that are printed."""
    kept = json.loads((ROOT / "benchmarks/results/coverage/coverage_laws.json").read_text())
    for law in prediction.PREFERRED:
        kind = f"unseen pair by {law} (both models left out, t)"
        measured = {row["size"]: row["measured"] for row in kept if row["kind"] == kind}
        reported = {size: share for size, share in measured.items() if share is not None}

        assert prediction.COVERAGE[law] == pytest.approx(reported, abs=0.0005), law


@pytest.mark.long
def test_intervals_cover_what_they_claim_to():
    """Nominal 95 %: within what 200 replicates may show of it; nothing is claimed of five models."""
    rows = coverage_laws.measure(replicates=200, seed=1)
    reported = {(row["kind"], row["size"]): row["measured"] for row in rows}

    assert len(reported) == 4 * (3 + 3 + 2)  # sizes; parameters twice, laws that predict
    for (kind, size), measured in reported.items():
        if size == 5 and "profile" not in kind:
            assert measured is None
        else:
            assert measured >= 0.91, (kind, size)
            assert measured <= (0.99 if "profile" in kind else 1.0), (kind, size)
    for law, coverage in prediction.COVERAGE.items():
        for size, stated in coverage.items():
            assert reported[f"unseen pair by {law} (both models left out, t)", size] == pytest.approx(
                stated, abs=0.04
            )
