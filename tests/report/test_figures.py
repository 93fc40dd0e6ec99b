"""Tests of `figures`: each is drawn from its query, labelled, the same bytes each time."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fsgen.config.load import load_settings
from fsgen.errors import UserError
from fsgen.report import report
from fsgen.report.figures import gallery, style
from fsgen.tables import lake, views

ROOT = Path(__file__).parents[2]


@pytest.fixture
def frames(finished) -> dict[str, pl.DataFrame]:
    """The result of every figure's query."""
    tables = lake.connect()
    return {name: tables.sql(gallery.query(name)).pl() for name in gallery.FIGURES}


def test_every_view_answers(frames):
    """After every stage has run there is no view without rows and described columns.

    Except the predictions of the published laws: none was fitted to this dataset.
    """
    for name in views.VIEWS | views.JOINED:
        assert len(lake.query(f"select * from {name} limit 1")) == (name != "scaling_predictions"), name
        assert all(about for _, _, about in lake.columns(name))


def test_every_query_feeds_a_figure_and_says_what_it_answers():
    """No figure without its SQL, no SQL without a figure; the first line is a question."""
    paths = sorted((ROOT / gallery.QUERIES).glob("*.sql"))

    assert {path.stem for path in paths} == set(gallery.FIGURES)
    for path in paths:
        first = path.read_text().splitlines()[0]
        assert first.startswith("-- ")
        assert first.endswith("?")


def test_outside_the_project_folder_there_is_no_query(tmp_path, monkeypatch):
    """Queries are found by the current folder, as all data is."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"queries/figures/cof\.sql; run from the project's folder"):
        gallery.query("cof")


@pytest.mark.parametrize("name", gallery.FIGURES)
def test_a_figure_is_drawn_from_its_query_the_same_bytes_twice(frames, name, tmp_path):
    """SVG and PNG; no date, no random ids."""
    assert len(frames[name]) > 0
    for again in ("one", "two"):
        gallery.save(name, frames[name], tmp_path / again / name)

    for kind in ("svg", "png"):
        one, two = ((tmp_path / again / f"{name}.{kind}").read_bytes() for again in ("one", "two"))
        assert len(one) > 1000
        assert one == two
    assert not [*tmp_path.rglob("*.part")]


@pytest.mark.parametrize("name", gallery.FIGURES)
def test_every_axis_is_labelled(frames, name):
    """Its own label or one that the figure shares; axes that are switched off are text."""
    figure = gallery.draw(name, frames[name])
    shared_x, shared_y = (get() for get in (figure.get_supxlabel, figure.get_supylabel))
    shared_x = shared_x or any(part.get_supxlabel() for part in getattr(figure, "subfigs", []))
    for ax in figure.axes:
        if not ax.axison or ax.get_label() == "<colorbar>":
            continue
        if name == "token_strips":
            assert shared_x
            continue
        assert ax.get_xlabel() or shared_x
        is_named = any(not text.get_text().replace(".", "").isdigit() for text in ax.get_yticklabels())
        is_bare = not ax.yaxis.get_tick_params().get("labelleft", True)
        assert ax.get_ylabel() or shared_y or is_named or is_bare


@pytest.mark.parametrize("name", gallery.FIGURES)
def test_nothing_to_draw_is_a_complaint(frames, name):
    """An empty result is no empty picture."""
    with pytest.raises(UserError, match=rf"'{name}' has nothing to draw"):
        gallery.draw(name, frames[name].clear())


OPTIONAL = [
    ("published", "curve"),
    ("published", "error"),
    ("cof", "curve"),
    ("off_policy", "survival"),
    ("separation", "auroc"),
    ("separation", "calibration"),
    ("separation", "lorenz"),
    ("speculative", "acceptance"),
    ("speculative", "speedup"),
]


@pytest.mark.parametrize(("name", "kind"), OPTIONAL)
def test_a_figure_does_without_rows_that_a_run_may_lack(frames, name, kind, tmp_path):
    """Too few pairs for a law, no text that holds both matches and mismatches, no speculative method."""
    gallery.save(name, frames[name].filter(pl.col("kind") != kind), tmp_path / name)

    assert (tmp_path / f"{name}.svg").stat().st_size > 1000


@pytest.mark.parametrize("name", gallery.FIGURES)
def test_a_figure_does_with_a_single_row(frames, name, tmp_path):
    """The smallest run there can be."""
    frame = frames[name]
    primary = {"separation": "auroc", "off_policy": "estimate", "speculative": "draft"}.get(name, "point")
    if "kind" in frame.columns:
        frame = frame.filter(kind=primary)
    gallery.save(name, frame.head(1), tmp_path / name)

    assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_the_report_draws_all_of_them_and_leaves_nothing_stale(frames, capsys):
    """plots/ holds what this run drew, one a dataset where figures are by dataset, and nothing older."""
    stale = report.PLOTS / "of-old.svg"
    stale.parent.mkdir(exist_ok=True)
    stale.write_text("")
    report.write_report(load_settings())
    names = {str(path.relative_to(report.PLOTS)) for path in report.PLOTS.rglob("*.*")}
    stems = {f"{name}/toy" if entry.by_dataset else name for name, entry in gallery.FIGURES.items()}

    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")} | {"report.html"}
    assert "**toy**" in capsys.readouterr().out


@pytest.mark.parametrize("end", [None, float("inf")])
def test_costs_are_drawn_where_nothing_bounds_them(frames, end, tmp_path):
    """One test prompt: points without intervals, on axes that end beyond them."""
    frame = frames["costs"].with_columns(cost_low=pl.lit(None, pl.Float64), cost_high=pl.lit(end, pl.Float64))
    figure = gallery.draw("costs", frame)
    gallery.save("costs", frame, tmp_path / "costs")

    for ax, axis in zip(figure.axes, ("large_tokens_processed", "flops"), strict=True):
        assert ax.get_xlim()[1] == pytest.approx(1.03 * frame.filter(cost_axis=axis)["cost"].max())


def test_points_stand_where_the_table_says(frames):
    """CoF against ratio: the oracle's point and both ends of its interval, in percent."""
    frame = frames["cof"]
    (row,) = frame.filter(kind="point", method="oracle").iter_rows(named=True)
    figure = gallery.draw("cof", frame)
    position = sorted(frame["method"].unique()).index("oracle")
    container = figure.axes[0].containers[position]
    (bar,) = container.lines[2][0].get_segments()

    assert container.lines[0].get_xydata()[0] == pytest.approx([row["ratio"], 100 * row["cof"]])
    assert bar[:, 1] == pytest.approx([100 * row["low"], 100 * row["high"]])


def test_the_position_map_has_each_pair_in_its_own_row():
    """Rows are the pairs in the order of their labels (FS-GEN's were not), columns the tenths."""
    rows = [
        {
            "pair": pair,
            "ratio": ratio,
            "scale": scale,
            "bin_low": at,
            "rate": rate,
            "rate_low": rate,
            "rate_high": rate,
        }
        for pair, ratio, rate in (("wide", 9.0, 0.4), ("near", 2.0, 0.1))
        for scale, at in [("relative", i / 10) for i in range(10)] + [("absolute", 0.0), ("absolute", 1.0)]
    ]
    ax = gallery.draw("position_heatmap", pl.DataFrame(rows)).axes[0]
    shown_PT = ax.images[0].get_array()

    assert [text.get_text() for text in ax.get_yticklabels()] == ["near", "wide"]
    assert np.allclose(shown_PT, [[10.0] * 10, [40.0] * 10])


def test_mismatches_and_matches_keep_their_own_names(frames):
    """The key's sign of a mismatch is drawn at mismatches (FS-GEN's labels were inverted)."""
    frame = frames["projections"]
    figure = gallery.draw("projections", frame)
    signs = {sign.get_label().split(" (")[0]: sign.get_color() for sign in figure.legends[0].legend_handles}
    drawn = {line.get_color(): len(line.get_xdata()) for line in figure.axes[0].lines}
    counts = dict(frame.filter(projection="pca").group_by("mismatch").len().iter_rows())

    assert drawn[signs["mismatch"]] == counts[True]
    assert drawn[signs["match"]] == counts[False]


def test_many_pairs_are_thinned_from_the_closest_to_the_most_distant():
    """Nine of 21, and the remark owns up to it."""
    frame = pl.DataFrame(
        {"pair": [f"p{i:02d}" for i in range(21)], "ratio": [float(i + 1) for i in range(21)]}
    )
    shown, remark = style.pairs_by_ratio(frame)

    assert len(shown) == 9
    assert (shown[0], shown[-1]) == ("p00", "p20")
    assert remark == " (9 of 21 pairs)"
    assert style.pairs_by_ratio(frame.head(3)) == (["p00", "p01", "p02"], "")


def test_an_interval_that_is_not_known_is_not_drawn():
    """Published points have none; known ones keep theirs."""
    axes = style.panels(1, 1)[1][0]
    drawn = style.draw_points(axes, [1, 2], [0.5, 0.6], [np.nan, 0.4], [np.nan, 0.9], colour="k", fmt="o")
    lengths = [np.ptp(segment[:, 1]) for segment in drawn.lines[2][0].get_segments()]

    assert lengths == pytest.approx([0.0, 0.5])
