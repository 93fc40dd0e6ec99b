"""The uncertainty stage on a finished pair: tables recounted from the scores, places from the words."""

import json
from pathlib import Path

import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from fsgen.analysis.uncertainty import uncertainty
from fsgen.config.load import load_settings
from fsgen.tables import lake, parquet
from fsgen.tables.schemas.uncertainty import TABLES
from tests.conftest import family_world, finish_pair

KEY = ["prompt_id", "turn", "pos"]


@pytest.fixture(scope="module")
def described(tiny_checkpoints, tmp_path_factory):
    """Two members of the embedded family, all stages that uncertainty needs; its metrics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("described"))
        loaded = family_world(tiny_checkpoints)
        finish_pair(loaded)
        uncertainty.write_uncertainty(loaded)
        yield json.loads(Path("metrics/uncertainty.json").read_text())["toy"]["duo"]


def table(name: str, **where) -> pl.DataFrame:
    return parquet.read(f"data/uncertainty/toy/{name}.parquet").filter(**where)


def scores(method: str = "oracle", writer: str = "small") -> pl.DataFrame:
    return parquet.read("data/routes/duo/toy/scores-*.parquet").filter(
        "in_answer", method=method, writer=writer
    )


def test_every_table_is_there_under_its_view(described):
    """Seven tables with rows, each asked for through SQL, of test prompts alone."""
    for name in TABLES:
        assert lake.query(f"select count(*) as n from {name}")["n"][0] > 0, name
        assert lake.columns(name)
    tests = set(parquet.read("data/prompts/toy.parquet").filter(split="test")["prompt_id"])
    assert set(table("projections")["prompt_id"]) | set(scores()["prompt_id"]) <= tests


@pytest.mark.parametrize("writer", ["small", "large"])
def test_auroc_is_recounted_from_the_scores(described, writer):
    """Each score turned so that doubt rises; logistic where a policy uses it; the metrics say the same."""
    rows = scores(writer=writer)
    for score, sign in {"entropy": 1, "max_probability": -1, "margin": -1, "logistic": 1, "svm": 1}.items():
        expected = roc_auc_score(rows["mismatch"], sign * rows[score].cast(pl.Float64))
        (row,) = table(
            "score_discrimination", method="oracle", writer=writer, score=score, metric="auroc"
        ).iter_rows(named=True)

        assert row["value"] == pytest.approx(expected)
        assert (row["tokens"], row["mismatches"]) == (len(rows), rows["mismatch"].sum())
        reported = described["oracle"][writer]["scores"][score]["auroc"]
        assert reported["value"] == pytest.approx(expected, abs=1e-6)
        assert reported["low"] <= reported["value"] <= reported["high"]
    assert not len(table("score_discrimination", method="average", score="logistic"))


def test_places_are_read_off_the_words(described):
    """First tokens, sentence starts and the rest, recounted from the text in plain Python."""
    pieces = dict(parquet.read("data/vocabulary/large.parquet").select("token_id", "piece").iter_rows())
    text = parquet.read("data/dumps/large/toy/tokens-*.parquet").sort(KEY)
    rows = scores(writer="large").select(*KEY, "mismatch")
    before = {}
    for (name,), subset in text.group_by("prompt_id", maintain_order=True):
        ids = subset["token_id"].to_list()
        before |= {(name, pos): pieces[ids[pos - 1]] if pos else None for pos in range(len(ids))}
    counted = {"first token": [], "sentence start": [], "elsewhere": []}
    for name, _, pos, mismatch in rows.iter_rows():
        message = before[name, pos]
        position = (
            "first token"
            if message is None
            else "sentence start"
            if message[-1:] in ".!?\n" and message
            else "elsewhere"
        )
        counted[position].append(mismatch)
    result = table("mismatch_by_boundary", method="oracle", writer="large")

    assert len(counted["sentence start"]) > 0
    assert {p: (len(m), sum(m)) for p, m in counted.items()} == {
        row["boundary"]: (row["tokens"], row["mismatches"]) for row in result.iter_rows(named=True)
    }


def test_positions_of_either_scale_hold_all_tokens(described):
    """Counts of the bins add up to the tokens of the text."""
    for (method, writer, scale), subset in table("mismatch_by_position").group_by(
        "method", "writer", "scale"
    ):
        rows = scores(method, writer)
        assert subset["tokens"].sum() == len(rows), (method, writer, scale)
        assert subset["mismatches"].sum() == rows["mismatch"].sum()


def test_relative_positions_are_recounted_in_integers(described):
    """Of every text the token of rank i of n in tenth 10 i // n; tenths without a token have no row."""
    for (method, writer), subset in table("mismatch_by_position", scale="relative").group_by(
        "method", "writer"
    ):
        counts = dict.fromkeys(range(10), 0)
        for (length,) in scores(method, writer).group_by("prompt_id").len().select("len").iter_rows():
            for rank in range(length):
                counts[10 * rank // length] += 1
        result = {row["bin_low"]: row["tokens"] for row in subset.iter_rows(named=True)}
        assert result == {tenth / 10: count for tenth, count in counts.items() if count}


def test_the_embedding_has_each_token_once_with_its_own_label(described):
    """No oversampling, and a mismatch is a mismatch."""
    result = table("projections")
    assert set(result["projection"]) == {"pca", "tsne"}
    for _, subset in result.group_by("projection"):
        assert subset.select(KEY).is_unique().all()
        both = subset.join(scores(), on=KEY, suffix="_scored", validate="1:1")
        assert len(both) == len(subset)
        assert (both["mismatch"] == both["mismatch_scored"]).all()


def test_lorenz_and_reliability_add_up(described):
    """All mismatches lie in all tokens; tenths hold every token, and their rates make the overall one."""
    rows = scores()
    whole = table("score_lorenz", method="oracle", writer="small", share_of_tokens=1.0)
    assert (whole["share_of_mismatches"] == 1).all()
    for score in ("entropy", "svm"):
        tenths = table("score_calibration", method="oracle", writer="small", score=score)
        assert tenths["tokens"].sum() == len(rows)
        assert (tenths["observed_rate"] * tenths["tokens"]).sum() == pytest.approx(rows["mismatch"].sum())
        assert (tenths["predicted_rate"].null_count() == 0) == (score == "svm")


def test_the_same_again_is_the_same_bytes(described):
    """Every table, t-SNE included."""
    before = {path: path.read_bytes() for path in sorted(Path("data/uncertainty").rglob("*.parquet"))}

    uncertainty.write_uncertainty(load_settings())

    assert len(before) == len(TABLES)
    assert before == {path: path.read_bytes() for path in before}
