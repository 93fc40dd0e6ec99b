"""Tests of `published`: what the published table supports, counted and fitted."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fsgen.analysis.scaling import laws, published
from fsgen.errors import UserError
from fsgen.tables import parquet, paths

TABLE = Path(__file__).parents[2] / "data/published/cof.csv"
ABOVE = {"oracle": (74, 6), "contrastive": (46, 5), "proxy": (48, 19)}
pytestmark = pytest.mark.long  # every law is fitted with its intervals


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """metrics/published.json and the folder of tables."""
    home = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        published.write_published(TABLE)
    return json.loads((home / "metrics/published.json").read_text()), home / paths.laws("published")


def test_the_claim_of_a_fifth_is_counted_by_cell(reported):
    """30 of 168 cells lie above 20 %, most of them proxy's."""
    claim = reported[0]["claim"]

    assert (claim["pairs"], claim["above"]) == (168, 30)
    assert {m: (row["pairs"], row["above"]) for m, row in claim["by_method"].items()} == ABOVE
    assert claim["by_series"]["oracle/mtbench"]["above"] == 4
    assert sum(row["pairs"] for row in claim["by_series"].values()) == 168
    assert claim["share_low"] < claim["share"] < claim["share_high"]


def test_every_series_has_every_law_with_its_measures(reported):
    """Twelve series by the authors' three words; the shape that others rely on."""
    series = reported[0]["series"]

    assert len(series) == 12
    assert {name.split("/")[0] for name in series} == set(ABOVE)
    assert sum(one["pairs"] for one in series.values()) == 168
    for one in series.values():
        assert one["laws"].keys() == laws.LAWS.keys()
        for law, result in one["laws"].items():
            assert result.keys() >= {"params", "r2", "aicc", "loo_rmse", "at_bound", "small_out_rmse"}
            assert result["params"].keys() == result["intervals"].keys() == set(laws.LAWS[law].parameters)


def test_what_the_authors_own_law_is_worth_on_their_own_table(reported):
    """alpha on its bound in 3 of 12, never separable from 0; the log of the ratio is better in all 12."""
    result = reported[0]["comparison"]

    assert (result["power_at_bound"], result["alpha_may_be_0"]) == (3, 12)
    assert (result["log_ratio_aicc_below_power"], result["two_size_r2_above_power"]) == (12, 12)
    assert result["power_at_ratio_1"] == pytest.approx([0.03, 0.16], abs=0.005)
    for key in ("lowest_aicc", "lowest_loo_rmse", "lowest_small_out_rmse"):
        assert sum(result[key].values()) == 12


def test_leaving_out_a_small_model_is_the_slow_loop(reported):
    """Every pair predicted by a fit to the pairs of other small models."""
    points = published.read_points(TABLE).filter(method="oracle", dataset="gsm8k")
    squares = []
    for row in points.iter_rows(named=True):
        left = points.filter(pl.col("small") != row["small"])
        params = laws.fit("two_size", left["small_b"], left["large_b"], left["cof"]).params
        squares.append((row["cof"] - laws.two_size(row["small_b"], row["large_b"], **params)) ** 2)
    fitted = reported[0]["series"]["oracle/gsm8k"]["laws"]["two_size"]

    assert fitted["small_out_rmse"] == pytest.approx(np.sqrt(np.mean(squares)))


def test_tables_say_what_the_metrics_say(reported):
    """Points, fits, parameters, errors, curves and claims, one row a thing."""
    metrics, folder = reported
    tables = {path.stem: parquet.read(path) for path in folder.iterdir()}

    assert tables.keys() == {
        "scaling_points",
        "scaling_fits",
        "scaling_parameters",
        "scaling_held_out",
        "scaling_curves",
        "scaling_claims",
    }
    assert len(tables["scaling_points"]) == 168
    assert len(tables["scaling_fits"]) == 12 * 5
    assert len(tables["scaling_claims"]) == 12 + 3 + 1
    for row in tables["scaling_fits"].iter_rows(named=True):
        fitted = metrics["series"][f"{row['method']}/{row['dataset']}"]["laws"][row["law"]]
        assert (row["aicc"], row["loo_rmse"]) == (fitted["aicc"], fitted["loo_rmse"])
    errors = tables["scaling_held_out"].filter(
        law="log_ratio", held_out="pair", method="oracle", dataset="gsm8k"
    )
    fitted = metrics["series"]["oracle/gsm8k"]["laws"]["log_ratio"]
    assert ((errors["cof"] - errors["predicted"]) ** 2).mean() ** 0.5 == pytest.approx(fitted["loo_rmse"])
    alphas = tables["scaling_parameters"].filter(parameter="alpha")
    assert ((alphas["profile_low"].fill_null(-9) <= 0) & (alphas["profile_high"].fill_null(9) >= 0)).all()


def test_curves_stay_within_the_sizes_of_their_series(reported):
    """A law is drawn where pairs were, and from the small model's own size on."""
    points, curves = (
        parquet.read(reported[1] / f"{name}.parquet") for name in ("scaling_points", "scaling_curves")
    )
    ends = points.group_by("method", "dataset").agg(
        most=pl.col("large_b").max(), least=pl.col("large_b").min()
    )
    joined = curves.join(ends, on=["method", "dataset"])

    slack = 1 + 1e-9
    assert (joined["large_b"] <= joined["most"] * slack).all()
    assert (joined["large_b"] * slack >= joined["least"]).all()
    assert (joined["large_b"] * slack >= joined["small_b"]).all()


HEAD = "method,dataset,large_b,small_b,cof\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "There is no published table"),
        (HEAD, "got no row"),
        ("method,dataset,large_b,cof\na,b,1,0.1\n", "should hold the columns"),
        (HEAD + "a,b,big,1,0.1\n", "with numbers in the last three"),
        (HEAD + "a,b,1,2,0.1\n", "0 < small_b < large_b"),
        (HEAD + "a,b,2,1,1.5\n", "cof within 0 and 1"),
        (HEAD + "a,b,2,,0.5\n", "0 < small_b < large_b"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, sentence):
    """One sentence, before anything is written."""
    path = tmp_path / "cof.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        published.read_points(path)
