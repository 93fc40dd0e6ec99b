"""Uncertainty and mismatch: ranking, calibration, where mismatches lie, and the paper's plane views."""

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from fsgen.report.figures import style
from fsgen.report.figures.style import COLOURS, DASHES, GREY, MARKERS

TERMS = ("per doubling of position", "first token", "sentence start")
FLOOR = 0.5  # AUROC of a score that knows nothing


def separation(frame: pl.DataFrame) -> Figure:
    """AUROC of every score for every pair; calibration curves and Lorenz curves of the most distant pair."""
    style.some(frame, "separation")
    pairs, remark = style.pairs_by_ratio(frame.filter(kind="auroc"), most=12)
    figure = Figure(figsize=(10.2, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    scores = sorted(frame["score"].unique())
    for place, score in enumerate(scores):
        colour, _, marker = style.look(score)
        own = {row["pair"]: row for row in frame.filter(kind="auroc", score=score).iter_rows(named=True)}
        y_P = np.array([i for i, pair in enumerate(pairs) if pair in own])
        told = [[own[pair][key] for key in ("value", "low", "high")] for pair in pairs if pair in own]
        columns = np.array(told, dtype=float).reshape(-1, 3)
        at_P = y_P + 0.13 * (place - (len(scores) - 1) / 2)
        left.hlines(at_P, columns[:, 1], columns[:, 2], color=colour, linewidth=0.9, alpha=0.6)
        left.plot(columns[:, 0], at_P, marker, color=colour, markersize=4, label=score)
    left.axvline(FLOOR, color=GREY, linewidth=0.8, linestyle=DASHES)
    left.set_yticks(range(len(pairs)), pairs)
    left.set_ylim(len(pairs) - 0.4, -0.6)
    left.set_xlabel(f"AUROC, mismatch against match{remark}")
    left.set_title("how well scores tell mismatches")
    _draw_calibration(middle, frame.filter(kind="calibration"))
    _draw_lorenz(right, frame.filter(kind="lorenz"))
    signs = [style.sign(score, style.look(score)[0], style.look(score)[2]) for score in scores]
    style.key(figure, signs, columns=6)
    return figure


def _draw_calibration(ax, own: pl.DataFrame) -> None:
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=DASHES)
    for score in sorted(own["score"].unique()):
        colour, line, marker = style.look(score)
        columns = style.column(own.filter(score=score).sort("x"), "x", "value", "low", "high")
        style.points(ax, *columns, colour=colour, marker=marker, linestyle=line)
    style.in_percent(ax.xaxis, ax.yaxis)
    ax.set(xlabel="claimed chance of a mismatch, %", ylabel="mismatches among these tokens, %")
    ax.set_title(f"calibration, {own['pair'][0]}" if len(own) else "calibration")


def _draw_lorenz(ax, own: pl.DataFrame) -> None:
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=DASHES)
    for score in sorted(own["score"].unique()):
        colour, line, _ = style.look(score)
        x_P, y_P, low_P, high_P = style.column(own.filter(score=score).sort("x"), "x", "value", "low", "high")
        ax.plot([0, *x_P], [0, *y_P], color=colour, linestyle=line, linewidth=1.2)
        ax.fill_between(x_P, low_P, high_P, color=colour, alpha=0.12, linewidth=0)
    style.in_percent(ax.xaxis, ax.yaxis)
    ax.set(xlabel="tokens, most doubtful first, %", ylabel="share of all mismatches in them, %")
    ax.set_title(f"Lorenz, {own['pair'][0]}" if len(own) else "Lorenz")


def positions(frame: pl.DataFrame) -> Figure:
    """Mismatch rate by tenth of the answer, a row a pair; beside it by absolute position, with intervals."""
    style.some(frame, "position_heatmap")
    pairs, remark = style.pairs_by_ratio(frame, most=12)
    figure = Figure(figsize=(9.4, 1.6 + 0.36 * max(len(pairs), 5)), layout="constrained")
    left, right = figure.subplots(1, 2)
    tenths = frame.filter(scale="relative")
    rate_PT = np.full((len(pairs), 10), np.nan)
    for pair, place, rate in tenths.select("pair", "bin_low", "rate").iter_rows():
        if pair in pairs:
            rate_PT[pairs.index(pair), round(10 * place)] = rate
    shown = left.imshow(100 * rate_PT, cmap="cividis", vmin=0, aspect="auto")
    left.grid(visible=False)
    left.set_yticks(range(len(pairs)), pairs)
    left.set_xticks(np.arange(11) - 0.5, [f"{10 * i}" for i in range(11)])
    left.set_xlabel(f"place in the answer, %{remark}")
    left.set_title("mismatch rate by tenth of the answer")
    figure.colorbar(shown, ax=left, label="mismatches, % of tokens")
    for place, pair in enumerate(style.spread(pairs, 4)):
        own = frame.filter(pair=pair, scale="absolute").sort("bin_low")
        columns = style.column(own, "bin_low", "rate", "low", "high")
        looks = {"colour": COLOURS[place], "marker": MARKERS[place], "linestyle": "-"}
        style.points(right, columns[0] + 1, *columns[1:], aside=3.0 * (place - 1.5), label=pair, **looks)
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    right.set(xlabel="position, tokens from the start (log)", ylabel="mismatches, % of tokens")
    right.set_title("by absolute position")
    right.legend(fontsize=7)
    style.in_percent(right.yaxis)
    return figure


def effects(frame: pl.DataFrame) -> Figure:
    """Odds ratios of where a token stands, without and with the small model's entropy beside it."""
    style.some(frame, "effects")
    terms = [term for term in TERMS if term in frame["term"].unique()]
    pairs, remark = style.pairs_by_ratio(frame, most=12)
    figure, axes = style.panels(len(terms), columns=3, width=3.4, height=0.8 + 0.3 * len(pairs), share=False)
    for ax, term in zip(axes, terms, strict=True):
        for place, model in enumerate(("position alone", "with entropy")):
            own = {r["pair"]: r for r in frame.filter(term=term, model=model).iter_rows(named=True)}
            y_P = np.array([i for i, p in enumerate(pairs) if p in own]) + 0.24 * (place - 0.5)
            ends = np.array([[own[p][k] for k in ("odds_ratio", "low", "high")] for p in pairs if p in own])
            if len(ends):
                ax.hlines(y_P, ends[:, 1], ends[:, 2], color=COLOURS[place], linewidth=1.1)
                ax.plot(ends[:, 0], y_P, MARKERS[place], color=COLOURS[place], markersize=4.5)
        ax.axvline(1, color=GREY, linewidth=0.8, linestyle=DASHES)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.xaxis.set_minor_formatter(lambda x, _: f"{x:g}")
        ax.set_yticks(range(len(pairs)), pairs)
        ax.set_ylim(len(pairs) - 0.4, -0.6)
        ax.set_xlabel(f"odds ratio of a mismatch (log){remark}")
        ax.set_title(term)
    signs = [style.sign(m, COLOURS[i], MARKERS[i]) for i, m in enumerate(("position alone", "with entropy"))]
    style.key(figure, signs, columns=2)
    return figure


def embedding(frame: pl.DataFrame) -> Figure:
    """Tokens in the plane by their top probabilities, mismatches and matches, with the held-out AUROC."""
    style.some(frame, "embedding")
    pairs, remark = style.pairs_by_ratio(frame, most=3)
    figure = Figure(figsize=(1.0 + 2.8 * max(len(pairs), 2), 6.0), layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False)
    names = {"pca": "principal component", "tsne": "t-SNE dimension"}
    for axes, view in zip(grid, names, strict=True):
        for ax, pair in zip(axes, pairs, strict=True):
            own = frame.filter(pair=pair, view=view)
            for is_mismatch, colour, marker in ((False, COLOURS[4], "."), (True, COLOURS[1], "x")):
                part = own.filter(pl.col("mismatch") == is_mismatch)
                ax.plot(
                    part["x"], part["y"], marker, color=colour, markersize=3.2, alpha=0.8, rasterized=True
                )
            ax.set_xlabel(f"{names[view]} 1 (no unit)")
            ax.set_ylabel(f"{names[view]} 2 (no unit)")
            if view == "pca":
                ax.set_title(pair + _auroc(own), fontsize=8.5)
    signs = [style.sign("match", COLOURS[4], "o"), style.sign(f"mismatch{remark}", COLOURS[1], "x")]
    style.key(figure, signs, columns=2)
    return figure


def _auroc(own: pl.DataFrame) -> str:
    value, low, high = own.select("auroc", "low", "high").row(0)
    return "" if value is None else f"\nheld-out AUROC {value:.3f} ({low:.3f} to {high:.3f})"
