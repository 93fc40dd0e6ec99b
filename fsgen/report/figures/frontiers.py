"""Routers: what accuracy their calls buy, who beats whom, and whether budgets are kept."""

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from fsgen.report.figures import style
from fsgen.report.figures.style import DASHES, GREY, INK

AXES = {
    "call_ratio": "call ratio, % of answer tokens",
    "large_positions": "large positions per answer token",
    "flops": "FLOPs per prompt",
}
MOST_COLUMNS = 4


def frontier(frame: pl.DataFrame) -> Figure:
    """Accuracy against call ratio: a row a method, a column a pair, a curve a router."""
    methods = _routed_methods(style.some(frame, "frontier"))
    rows = [("call_ratio", method) for method in methods]
    return _frontiers(frame.filter(pl.col("method").is_in(methods)), rows, "Accuracy on test prompts, %")


def costs(frame: pl.DataFrame) -> Figure:
    """The same against what the calls cost: large-model positions and FLOPs, for the oracle."""
    style.some(frame, "costs")
    rows = [(axis, "oracle") for axis in ("large_positions", "flops") if axis in frame["axis"].unique()]
    return _frontiers(frame, rows, "Accuracy on test prompts, %")


def _routed_methods(frame: pl.DataFrame) -> list[str]:
    """The methods with most routers that have budgets, three at most."""
    aimed = pl.when(pl.col("budget").is_not_null()).then("router")
    counted = frame.group_by("method").agg(router=aimed.n_unique())
    return counted.sort("router", "method", descending=[True, False])["method"].to_list()[:3]


def _frontiers(frame: pl.DataFrame, rows: list[tuple[str, str]], label: str) -> Figure:
    pairs, remark = style.pairs_by_ratio(frame, MOST_COLUMNS)
    figure = Figure(figsize=(1.2 + 2.5 * max(len(pairs), 2), 1.0 + 2.5 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(pairs), squeeze=False, sharex="row", sharey=True)
    routers = sorted(frame["router"].unique(), key=lambda name: (name in ("random", "perfect"), name))
    for axes, (axis, method) in zip(grid, rows, strict=True):
        for ax, pair in zip(axes, pairs, strict=True):
            own = frame.filter(pair=pair, axis=axis, method=method)
            for router in routers:
                _draw_router(ax, own.filter(router=router).sort("x"), router)
            if len(rows) == 1 or ax in grid[0]:
                ax.set_title(pair)
            style.in_percent(ax.yaxis)
            if axis == "call_ratio":
                style.in_percent(ax.xaxis)
        furthest = _furthest(frame.filter(axis=axis, method=method))
        axes[0].set_xlim(-0.03 * furthest, 1.03 * furthest)
        axes[0].set_ylabel(f"{method}\n{label}")
        for ax in axes:
            ax.set_xlabel(AXES[axis])
    if remark:
        figure.supxlabel(f"shown:{remark}", fontsize=7.5)
    signs = [
        style.sign(name, style.look(name)[0], style.look(name)[2], style.look(name)[1]) for name in routers
    ]
    style.key(figure, signs, columns=min(len(signs), 7))
    return figure


def _furthest(frame: pl.DataFrame) -> float:
    """The largest x that is drawn: of a point, or of an upper end where one is known."""
    ends = np.stack(style.column(frame, "x", "x_high"))
    return float(ends[np.isfinite(ends)].max())


def _draw_router(ax, own: pl.DataFrame, router: str) -> None:
    """A router's policies joined in order of their calls, with both intervals."""
    if not len(own):
        return
    colour, line, marker = style.look(router)
    x_P, low_P, high_P = style.column(own, "x", "x_low", "x_high")
    y_3P = style.column(own, "accuracy", "low", "high")
    ends = np.stack([low_P, high_P])
    style.points(ax, x_P, *y_3P, colour=colour, marker=marker, linestyle=line or "none", x_ends=ends)


def duels(frame: pl.DataFrame) -> Figure:
    """How likely each router is to beat each other one at the same call ratio, a panel a pair."""
    style.some(frame, "duels")
    pairs, remark = style.pairs_by_ratio(frame)
    routers = sorted(frame["router"].unique(), key=lambda name: (name in ("random", "perfect"), name))
    figure, axes = style.panels(len(pairs), columns=3, width=2.9, height=2.7)
    for ax, pair in zip(axes, pairs, strict=True):
        own = {
            (a, b): p for a, b, p in frame.filter(pair=pair).select("router", "rival", "probability").rows()
        }
        chance_RR = np.array([[own.get((a, b), np.nan) for b in routers] for a in routers])
        shown = ax.imshow(chance_RR, cmap="PuOr_r", vmin=0, vmax=1)
        ax.grid(visible=False)
        for (i, j), chance in np.ndenumerate(chance_RR):
            if not np.isnan(chance):
                dark = abs(chance - 0.5) > 0.33
                text = f"{100 * chance:.0f}"
                ax.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else INK)
        ax.set_xticks(range(len(routers)), routers, rotation=45, ha="right")
        ax.set_yticks(range(len(routers)), routers)
        ax.set_title(pair)
    figure.colorbar(shown, ax=axes, shrink=0.6, label="probability that the row wins")
    budget = 100 * frame["budget"][0]
    figure.supxlabel(f"rival at a call ratio of {budget:g} %{remark}", fontsize=9)
    figure.supylabel("router; cells: % of resampled prompt sets on which it is more accurate", fontsize=9)
    return figure


def budgets(frame: pl.DataFrame) -> Figure:
    """Calls that policies made on test prompts against the budget that calibration prompts set."""
    style.some(frame, "budgets")
    pairs, remark = style.pairs_by_ratio(frame)
    figure, axes = style.panels(len(pairs), columns=3)
    routers = sorted(frame["router"].unique(), key=lambda name: (name in ("random", "perfect"), name))
    for ax, pair in zip(axes, pairs, strict=True):
        ax.set_title(pair)
        most = frame["budget"].max()
        ax.plot([0, most], [0, most], color=GREY, linewidth=0.8, linestyle=DASHES)
        for (method, router), own in frame.filter(pair=pair).group_by(
            "method", "router", maintain_order=True
        ):
            colour, _, marker = style.look(router)
            aside = 3.0 * (routers.index(router) - (len(routers) - 1) / 2)
            columns = style.column(own.sort("budget"), "budget", "x", "x_low", "x_high")
            looks = style.of_method(method, colour)
            style.points(ax, *columns, colour=colour, fmt=marker, aside=aside, **looks)
        style.in_percent(ax.xaxis, ax.yaxis)
        ax.set_xticks(sorted(frame["budget"].unique()))
    hollow = "; hollow: of another method than oracle" if frame["method"].n_unique() > 1 else ""
    figure.supxlabel(f"Budget: call ratio aimed at on calibration prompts, %{remark}{hollow}", fontsize=9)
    figure.supylabel("Call ratio on test prompts, %", fontsize=9)
    signs = [style.sign(name, style.look(name)[0], style.look(name)[2]) for name in routers]
    style.key(figure, signs, columns=min(len(signs), 7))
    return figure
