"""Uncertainty and mismatch: ranking, calibration, where mismatches lie, and projections of tokens.

Shape legend: P pairs or points, T tenths of an answer.
"""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsgen.report.figures import style
from fsgen.report.figures.style import COLOURS, DASHES, GREY, MARKERS

MOST_PAIRS = 12
TERMS = ("per doubling of position", "first token", "sentence start")
REGRESSIONS = ("position alone", "with entropy")
PROJECTIONS = {"pca": "principal component", "tsne": "t-SNE dimension"}
CHANCE = 0.5  # AUROC of a score that ranks at random


def separation(frame: pl.DataFrame) -> Figure:
    """AUROC of every score for every pair; calibration curves and Lorenz curves of the most distant pair."""
    style.require_rows(frame, "separation")
    figure = Figure(figsize=(10.2, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    scores = sorted(frame["score"].unique())
    _draw_auroc(left, frame.filter(kind="auroc"), scores)
    _draw_calibration(middle, frame.filter(kind="calibration"))
    _draw_lorenz(right, frame.filter(kind="lorenz"))
    style.add_legend(figure, style.router_entries(scores), columns=6)
    return figure


def _draw_auroc(ax: Axes, frame: pl.DataFrame, scores: list[str]) -> None:
    """A row for each pair, and in it an interval for each score."""
    pairs, remark = style.pairs_by_ratio(frame, most=MOST_PAIRS)
    for index, score in enumerate(scores):
        look = style.look_of(score)
        y_P, (auroc_P, low_P, high_P) = _by_pair(
            frame.filter(score=score), pairs, ("value", "low", "high"), 0.13 * (index - (len(scores) - 1) / 2)
        )
        ax.hlines(y_P, low_P, high_P, color=look.colour, linewidth=0.9, alpha=0.6)
        ax.plot(auroc_P, y_P, look.marker, color=look.colour, markersize=4, label=score)
    ax.axvline(CHANCE, color=GREY, linewidth=0.8, linestyle=DASHES)
    _label_pairs(ax, pairs)
    ax.set_xlabel(f"AUROC, mismatch against match{remark}")
    ax.set_title("how well scores tell mismatches")


def _by_pair(
    frame: pl.DataFrame, pairs: list[str], columns: tuple[str, ...], shift: float
) -> tuple[np.ndarray, np.ndarray]:
    """Heights of the pairs that have a row, [P], and these columns of theirs, [columns, P].

    A pair's height is its place in `pairs`, plus `shift`.
    """
    rows = {row["pair"]: row for row in frame.iter_rows(named=True)}
    present = [pair for pair in pairs if pair in rows]
    heights = np.array([pairs.index(pair) for pair in present]) + shift
    values = np.array([[rows[pair][column] for column in columns] for pair in present], dtype=float)
    return heights, values.reshape(-1, len(columns)).T


def _label_pairs(ax: Axes, pairs: list[str]) -> None:
    """Name the rows of a panel, the first on top."""
    ax.set_yticks(range(len(pairs)), pairs)
    ax.set_ylim(len(pairs) - 0.4, -0.6)


def _draw_calibration(ax: Axes, rows: pl.DataFrame) -> None:
    """Observed rate of mismatches against the predicted rate, with the diagonal."""
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=DASHES)
    for score in sorted(rows["score"].unique()):
        look = style.look_of(score)
        columns = style.float_columns(rows.filter(score=score).sort("x"), "x", "value", "low", "high")
        style.draw_points(ax, *columns, colour=look.colour, marker=look.marker, linestyle=look.line)
    style.show_percent(ax.xaxis, ax.yaxis)
    ax.set(xlabel="predicted probability of a mismatch, %", ylabel="mismatches among these tokens, %")
    ax.set_title(f"calibration, {rows['pair'][0]}" if len(rows) else "calibration")


def _draw_lorenz(ax: Axes, rows: pl.DataFrame) -> None:
    """Share of all mismatches among the most uncertain tokens, with the diagonal."""
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=DASHES)
    for score in sorted(rows["score"].unique()):
        look = style.look_of(score)
        curve = rows.filter(score=score).sort("x")
        x_P, y_P, low_P, high_P = style.float_columns(curve, "x", "value", "low", "high")
        ax.plot([0, *x_P], [0, *y_P], color=look.colour, linestyle=look.line, linewidth=1.2)
        ax.fill_between(x_P, low_P, high_P, color=look.colour, alpha=0.12, linewidth=0)
    style.show_percent(ax.xaxis, ax.yaxis)
    ax.set(xlabel="tokens, most uncertain first, %", ylabel="share of all mismatches among them, %")
    ax.set_title(f"Lorenz, {rows['pair'][0]}" if len(rows) else "Lorenz")


def positions(frame: pl.DataFrame) -> Figure:
    """Mismatch rate by tenth of the answer, a row for each pair; at its side by absolute position."""
    style.require_rows(frame, "position_heatmap")
    pairs, remark = style.pairs_by_ratio(frame, most=MOST_PAIRS)
    figure = Figure(figsize=(9.4, 1.6 + 0.36 * max(len(pairs), 5)), layout="constrained")
    left, right = figure.subplots(1, 2)
    image = _draw_tenths(left, frame.filter(scale="relative"), pairs)
    left.set_xlabel(f"position in the answer, %{remark}")
    figure.colorbar(image, ax=left, label="mismatches, % of tokens")
    _draw_positions(right, frame.filter(scale="absolute"), style.thin_out(pairs, 4))
    return figure


def _draw_tenths(ax: Axes, rows: pl.DataFrame, pairs: list[str]):
    """A coloured cell for each pair and tenth; returns the image."""
    rate_PT = np.full((len(pairs), 10), np.nan)
    for pair, start, rate in rows.select("pair", "bin_low", "rate").iter_rows():
        if pair in pairs:
            rate_PT[pairs.index(pair), round(10 * start)] = rate
    image = ax.imshow(100 * rate_PT, cmap="cividis", vmin=0, aspect="auto")
    ax.grid(visible=False)
    ax.set_yticks(range(len(pairs)), pairs)
    ax.set_xticks(np.arange(11) - 0.5, [f"{10 * tenth}" for tenth in range(11)])
    ax.set_title("mismatch rate by tenth of the answer")
    return image


def _draw_positions(ax: Axes, rows: pl.DataFrame, pairs: list[str]) -> None:
    """Mismatch rate by position, a line for each pair, with intervals."""
    for index, pair in enumerate(pairs):
        curve = rows.filter(pair=pair).sort("bin_low")
        pos_P, *rate_3P = style.float_columns(curve, "bin_low", "rate", "rate_low", "rate_high")
        style.draw_points(
            ax,
            pos_P + 1,  # from 1 on a logarithmic axis
            *rate_3P,
            colour=COLOURS[index],
            marker=MARKERS[index],
            linestyle="-",
            shift=3.0 * (index - 1.5),
            label=pair,
        )
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.set(xlabel="position, tokens from the start (log)", ylabel="mismatches, % of tokens")
    ax.set_title("by absolute position")
    ax.legend(fontsize=7)
    style.show_percent(ax.yaxis)


def odds_ratios(frame: pl.DataFrame) -> Figure:
    """Odds ratios of a token's position, without and with the small model's entropy in the regression."""
    style.require_rows(frame, "odds_ratios")
    terms = [term for term in TERMS if term in frame["term"].unique()]
    pairs, remark = style.pairs_by_ratio(frame, most=MOST_PAIRS)
    figure, axes = style.panels(len(terms), columns=3, width=3.4, height=0.8 + 0.3 * len(pairs), share=False)
    for ax, term in zip(axes, terms, strict=True):
        _draw_odds_ratios(ax, frame.filter(term=term), pairs)
        ax.set_xlabel(f"odds ratio of a mismatch (log){remark}")
        ax.set_title(term)
    entries = [style.legend_entry(name, COLOURS[i], MARKERS[i]) for i, name in enumerate(REGRESSIONS)]
    style.add_legend(figure, entries, columns=2)
    return figure


def _draw_odds_ratios(ax: Axes, frame: pl.DataFrame, pairs: list[str]) -> None:
    """A row for each pair, and in it an interval for each regression."""
    for index, regression in enumerate(REGRESSIONS):
        y_P, (odds_P, low_P, high_P) = _by_pair(
            frame.filter(regressors=regression),
            pairs,
            ("odds_ratio", "odds_ratio_low", "odds_ratio_high"),
            0.24 * (index - 0.5),
        )
        if len(y_P):
            ax.hlines(y_P, low_P, high_P, color=COLOURS[index], linewidth=1.1)
            ax.plot(odds_P, y_P, MARKERS[index], color=COLOURS[index], markersize=4.5)
    ax.axvline(1, color=GREY, linewidth=0.8, linestyle=DASHES)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.xaxis.set_minor_formatter(lambda x, _: f"{x:g}")
    _label_pairs(ax, pairs)


def project_tokens(frame: pl.DataFrame) -> Figure:
    """Tokens in the plane by their top probabilities, mismatches and matches, with the held-out AUROC."""
    style.require_rows(frame, "projections")
    pairs, remark = style.pairs_by_ratio(frame, most=3)
    figure = Figure(figsize=(1.0 + 2.8 * max(len(pairs), 2), 6.0), layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False)
    for axes, (projection, name) in zip(grid, PROJECTIONS.items(), strict=True):
        for ax, pair in zip(axes, pairs, strict=True):
            _draw_projection(ax, frame.filter(pair=pair, projection=projection))
            ax.set_xlabel(f"{name} 1 (no unit)")
            ax.set_ylabel(f"{name} 2 (no unit)")
    for ax, pair in zip(grid[0], pairs, strict=True):
        ax.set_title(pair + _held_out_auroc(frame.filter(pair=pair, projection="pca")), fontsize=8.5)
    mismatch = style.legend_entry(f"mismatch{remark}", COLOURS[1], "x")
    style.add_legend(figure, [style.legend_entry("match", COLOURS[4], "o"), mismatch], columns=2)
    return figure


def _draw_projection(ax: Axes, rows: pl.DataFrame) -> None:
    """A dot for each match, over them a cross for each mismatch."""
    for is_mismatch, colour, marker in ((False, COLOURS[4], "."), (True, COLOURS[1], "x")):
        dots = rows.filter(pl.col("mismatch") == is_mismatch)
        ax.plot(dots["x"], dots["y"], marker, color=colour, markersize=3.2, alpha=0.8, rasterized=True)


def _held_out_auroc(rows: pl.DataFrame) -> str:
    value, low, high = rows.select("auroc", "low", "high").row(0)
    return "" if value is None else f"\nheld-out AUROC {value:.3f} ({low:.3f} to {high:.3f})"
