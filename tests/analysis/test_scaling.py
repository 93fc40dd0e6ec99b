"""Tests of `scaling`: own points pooled, laws laid out, entropy weighed against sizes."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from fsgen.analysis.scaling import laws, scaling, series
from fsgen.config.policies import method_table
from fsgen.errors import UserError
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.scaling import TABLES


def metrics_of(models, cof):
    """What metrics/<dataset>.json holds, as far as the laws read it."""
    return {
        "models": {name: {"parameters": n, "total_parameters": 2 * n} for name, n in models.items()},
        "pairs": {
            f"{large}--{small}": {
                "small": small,
                "large": large,
                "cof": {
                    method: {"value": v, "low": v - 0.01, "high": v + 0.01, "tokens": 100, "prompts": 10}
                    for method, v in values.items()
                },
            }
            for (small, large), values in cof.items()
        },
    }


THREE = metrics_of(
    {"s": 10_000, "m": 100_000, "l": 1_000_000},
    {
        ("s", "l"): {"oracle": 0.2, "proxy": 0.3},
        ("s", "m"): {"oracle": 0.12},
        ("m", "l"): {"oracle": 0.1},
    },
)


def table_of(metrics):
    points = scaling.pool(metrics)
    described = {(m, d): series.describe(group) for m, d, group in series.series_of(points)}
    return scaling.scaling_table(
        metrics, points, described, {"scaling_covariates": [], "scaling_predictions": []}
    )


def test_the_table_holds_every_point_in_billions_of_parameters():
    """Pairs in order, each with its sizes and interval."""
    oracle = table_of({"arith": THREE})["arith"]["oracle"]

    assert (oracle["pairs"], oracle["models"], oracle["identified"]) == (3, 3, False)
    assert [point["pair"] for point in oracle["points"]] == ["l--m", "l--s", "m--s"]
    assert oracle["points"][1] == pytest.approx(
        {"pair": "l--s", "small": 1e-5, "large": 1e-3, "cof": 0.2, "cof_low": 0.19, "cof_high": 0.21}
    )
    assert set(laws.LAWS) == set(oracle["laws"])
    assert oracle["laws"]["log_ratio"]["params"] == pytest.approx({"c0": 0.02, "c1": 0.09})
    assert oracle["laws"]["log_ratio"]["model_intervals"] == {"c0": [None, None], "c1": [None, None]}


def test_a_method_has_the_points_of_the_pairs_that_run_it():
    """Proxy needs a tuned model, which not every pair has; one point makes no law."""
    proxy = table_of({"arith": THREE})["arith"]["proxy"]

    assert (proxy["pairs"], proxy["models"]) == (1, 2)
    assert {law["params"] for law in proxy["laws"].values()} == {None}


@pytest.mark.long
def test_six_distinct_models_identify_a_law():
    """Five do not, however many pairs they make; only six have intervals over models."""
    for count in (5, 6):
        names = {f"m{i}": 10**i for i in range(1, count + 1)}
        noise = iter(np.random.default_rng(0).normal(0.1, 0.01, 15))
        cof = {(s, l): {"oracle": next(noise)} for s in names for l in names if names[s] < names[l]}
        reported = table_of({"a": metrics_of(names, cof)})["a"]["oracle"]
        ends = [end for pair in reported["laws"]["two_size"]["model_intervals"].values() for end in pair]

        assert (count >= 6) == reported["identified"]
        assert (count >= 6) == (None not in ends)


@pytest.mark.parametrize("key", ["parameters", "total_parameters"])
def test_a_model_without_its_parameters_is_named(key):
    """The sentence says which file, model and pair."""
    metrics = metrics_of({"s": 10, "l": 20}, {("s", "l"): {"oracle": 0.1}})
    del metrics["models"]["l"][key]
    with pytest.raises(UserError, match=rf"metrics/arith.json .* {key} of 'l', the large model of l--s"):
        scaling.pool({"arith": metrics})


def points_of(entropies, cof):
    """A grid of small and large models; CoF is a function of the small one's entropy and the sizes."""
    rows = [
        {"small": s, "large": l, "small_b": 2.0**i, "large_b": 20.0 * 3.0**j, "small_entropy": e}
        for i, (s, e) in enumerate(entropies.items())
        for j, l in enumerate(["x", "y", "z"])
    ]
    frame = pl.DataFrame(rows)
    return frame.with_columns(cof=cof(frame), method=pl.lit("oracle"), dataset=pl.lit("a"))


ENTROPIES = {"s1": 0.9, "s2": 0.3, "s3": 0.7, "s4": 0.6, "s5": 0.2}


def test_what_cof_depends_on_predicts_it():
    """Where entropy makes CoF its errors vanish and those of sizes do not; and the other way round."""
    by_entropy = points_of(ENTROPIES, lambda f: 0.02 + 0.2 * f["small_entropy"])
    by_sizes = points_of(ENTROPIES, lambda f: 0.1 + 0.02 * f["large_b"].log10() - 0.1 * f["small_b"].log10())
    for points, right, wrong in ((by_entropy, "entropy", "sizes"), (by_sizes, "sizes", "entropy")):
        reported = {row["predictor"]: row for row in scaling.covariates("oracle", "a", points)}
        for key in ("loo_rmse", "small_out_rmse"):
            assert reported[right][key] == pytest.approx(0, abs=1e-9)
            assert reported["both"][key] == pytest.approx(0, abs=1e-9)
            assert reported[wrong][key] > 0.005


def test_leaving_out_a_small_model_is_the_slow_refit():
    """Polyfit of CoF on entropy without the pairs of that model."""
    noise_P = np.random.default_rng(0).normal(0, 0.02, 15)
    points = points_of(ENTROPIES, lambda f: 0.02 + 0.2 * f["small_entropy"] + noise_P)
    squares = []
    for row in points.iter_rows(named=True):
        left = points.filter(pl.col("small") != row["small"])
        line = np.polyfit(left["small_entropy"], left["cof"], 1)
        squares.append((row["cof"] - np.polyval(line, row["small_entropy"])) ** 2)
    (result,) = [r for r in scaling.covariates("oracle", "a", points) if r["predictor"] == "entropy"]

    assert result["small_out_rmse"] == pytest.approx(np.sqrt(np.mean(squares)))


def test_errors_that_are_not_determined_are_none():
    """An unknown entropy, one small model only, or as many pairs as regressors."""
    unknown = points_of(ENTROPIES | {"s1": None}, lambda f: f["small_b"] / 100)
    one = points_of({"s1": 0.5}, lambda f: f["large_b"] / 1000)
    reported = {row["predictor"]: row["loo_rmse"] for row in scaling.covariates("oracle", "a", unknown)}

    assert (reported["entropy"], reported["both"]) == (None, None)
    assert reported["sizes"] is not None
    for row in scaling.covariates("oracle", "a", one):
        assert (row["loo_rmse"], row["small_out_rmse"]) == (None, None)


def test_the_error_without_a_small_model_keeps_pairs_that_it_is_the_large_one_of():
    """Polyfit of CoF on the ratio; the page says from which pairs each is predicted."""
    names = {f"m{i}": 10**i for i in range(4, 9)}
    noise = iter(np.random.default_rng(0).normal(0.1, 0.01, 10))
    cof = {(s, l): {"oracle": next(noise)} for s in names for l in names if names[s] < names[l]}
    points = scaling.pool({"a": metrics_of(names, cof)})
    points = points.with_columns(ratio=(pl.col("large_b") / pl.col("small_b")).log10())
    squares = []
    for row in points.iter_rows(named=True):
        left = points.filter(pl.col("small") != row["small"])
        line = np.polyfit(left["ratio"], left["cof"], 1)
        squares.append((row["cof"] - np.polyval(line, row["ratio"])) ** 2)
    result = series.describe(points)["log_ratio"]["small_out_rmse"]

    assert result == pytest.approx(np.sqrt(np.mean(squares)))
    page = (Path(__file__).parents[2] / "docs" / "definitions.md").read_text()
    assert "`small_out_rmse`: predicted from the pairs with another small model" in page


def test_entropy_is_the_mean_over_answers_to_test_prompts(tmp_path, monkeypatch):
    """Calibration prompts, tokens past the answer, forced ones and models without a dump stay out."""
    text, yes, number = (pl.String, pl.Boolean, pl.Float32)
    tokens = pl.DataFrame(
        [("t", True, False, 1.0), ("t", True, False, 2.0), ("c", True, False, 50.0),
         ("t", False, False, 60.0), ("t", True, True, 70.0)],
        schema={"prompt_id": text, "in_answer": yes, "from_template": yes, "entropy": number},
        orient="row",
    )  # fmt: skip
    prompts = pl.DataFrame({"prompt_id": ["t", "c"], "split": ["test", "calibration"]})
    for path, frame in (("prompts/a", prompts), ("dumps/s/a/tokens-0", tokens)):
        about = [(f.name, f.type, "a column") for f in frame.to_arrow().schema]
        parquet.write(tmp_path / f"data/{path}.parquet", frame, parquet.schema(about))
    pairs = {"p": SimpleNamespace(small="s"), "q": SimpleNamespace(small="absent")}
    monkeypatch.chdir(tmp_path)

    assert scaling.small_entropies(["a"], pairs.values()) == {("a", "s"): 1.5}


def test_the_stage_writes_tables_and_json_that_agree(tmp_path, monkeypatch):
    """The oracle's CoF is not counted again where speculative decoding repeats it."""
    monkeypatch.chdir(tmp_path)
    pairs = {
        name: SimpleNamespace(**{k: p[k] for k in ("small", "large")}) for name, p in THREE["pairs"].items()
    }
    both = json.loads(json.dumps(THREE))
    for pair in both["pairs"].values():
        pair["cof"]["speculative"] = pair["cof"]["oracle"]
    path = tmp_path / "data/counts/arith/metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(both))
    prompts = pl.DataFrame({"prompt_id": ["t"], "split": ["test"]})
    about = [(f.name, f.type, "a column") for f in prompts.to_arrow().schema]
    parquet.write(tmp_path / "data/prompts/arith.parquet", prompts, parquet.schema(about))
    known = scaling.pool({"arith": THREE})
    parquet.write(
        tmp_path / paths.laws("published") / "scaling_points.parquet", known, TABLES["scaling_points"]
    )
    methods = method_table({"oracle": {}, "proxy": {}, "speculative": {}})
    scaling.write_scaling(SimpleNamespace(datasets={"arith": None}, pairs=pairs, methods=methods))
    reported = files.read_metrics(Path("metrics/scaling.json"))["arith"]
    tables = {path.stem: parquet.read(path) for path in (tmp_path / paths.laws("dumps")).iterdir()}

    assert tables.keys() == set(TABLES)
    assert reported.keys() == {"oracle", "proxy", "speculative"}
    assert len(tables["scaling_points"]) == 7
    assert tables["scaling_claims"].filter(method="all")["pairs"].to_list() == [4]
    assert tables["scaling_claims"].filter(method="all")["above"].to_list() == [1]
    laws_of = tables["scaling_predictions"].group_by("method").agg(pl.col("law").n_unique())
    assert laws_of.rows() == [("oracle", 2)]  # three points determine the laws of two parameters
    assert reported["oracle"]["predictions"] == tables["scaling_predictions"].to_dicts()
    assert reported["proxy"]["predictions"] == []
    assert [[*of["covariates"].values()] for of in reported.values()] == [
        tables["scaling_covariates"].filter(method=method).to_dicts() for method in reported
    ]


def test_the_json_repeats_rows_of_the_tables():
    """Each series its own; nothing is fitted anew."""
    points = scaling.pool({"arith": THREE})
    described = {(m, d): series.describe(group) for m, d, group in series.series_of(points)}
    row = {"method": "oracle", "dataset": "arith", "predictor": "sizes", "pairs": 3, "loo_rmse": 0.5}
    rows = {
        "scaling_covariates": [row, row | {"dataset": "other"}],
        "scaling_predictions": [row | {"method": "proxy"}],
    }
    reported = scaling.scaling_table({"arith": THREE}, points, described, rows)["arith"]

    assert reported["oracle"]["covariates"] == {"sizes": row}
    assert reported["proxy"]["covariates"] == {}
    assert (reported["oracle"]["predictions"], reported["proxy"]["predictions"]) == (
        [],
        rows["scaling_predictions"],
    )


def test_an_unevaluated_dataset_is_named(tmp_path, monkeypatch):
    """With the command that makes its numbers."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no data/counts/arith/metrics\.json; run 'dvc repro'"):
        scaling.write_scaling(SimpleNamespace(datasets={"arith": None}, methods={}))
