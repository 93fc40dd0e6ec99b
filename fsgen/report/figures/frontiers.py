"""Routers: what accuracy their calls buy, which router beats which, and whether budgets are kept.

Shape legend: P policies of a router, R routers.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsgen.report.figures import style
from fsgen.report.figures.style import DASHES, GREY, INK, MAIN_METHOD

AXES = {
    "call_ratio": "call ratio, % of answer tokens",
    "large_tokens_processed": "large-model tokens processed per answer token",
    "flops": "FLOPs per prompt",
}
ACCURACY = "Accuracy on test prompts, %"
MOST_COLUMNS = 4
MOST_METHODS = 3


class _Row(NamedTuple):
    """A row of panels: what is on the x axis, and whose policies are drawn."""

    axis: str
    method: str


def frontier(frame: pl.DataFrame) -> Figure:
    """Accuracy against call ratio: a row for each method, a column for each pair, a curve for each router."""
    methods = _routed_methods(style.require_rows(frame, "frontier"))
    shown = frame.filter(pl.col("method").is_in(methods))
    return _draw_grid(shown, [_Row("call_ratio", method) for method in methods])


def costs(frame: pl.DataFrame) -> Figure:
    """The same against what the calls cost: tokens of the large model and FLOPs, for the main method."""
    style.require_rows(frame, "costs")
    present = frame["cost_axis"].unique()
    return _draw_grid(
        frame, [_Row(axis, MAIN_METHOD) for axis in ("large_tokens_processed", "flops") if axis in present]
    )


def _routed_methods(frame: pl.DataFrame) -> list[str]:
    """The methods with most routers that have budgets, MOST_METHODS at most."""
    with_budget = pl.when(pl.col("budget").is_not_null()).then("router")
    counts = frame.group_by("method").agg(router=with_budget.n_unique())
    ordered = counts.sort("router", "method", descending=[True, False])
    return ordered["method"].to_list()[:MOST_METHODS]


def _draw_grid(frame: pl.DataFrame, rows: list[_Row]) -> Figure:
    """Frontiers of every row and pair."""
    pairs, remark = style.pairs_by_ratio(frame, MOST_COLUMNS)
    figure = Figure(figsize=(1.2 + 2.5 * max(len(pairs), 2), 1.0 + 2.5 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(pairs), squeeze=False, sharex="row", sharey=True)
    routers = style.order_routers(frame["router"].unique())
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(axes, frame.filter(cost_axis=row.axis, method=row.method), row, pairs, routers)
    for ax, pair in zip(grid[0], pairs, strict=True):
        ax.set_title(pair)
    if remark:
        figure.supxlabel(f"shown:{remark}", fontsize=7.5)
    entries = style.router_entries(routers, with_lines=True)
    style.add_legend(figure, entries, columns=min(len(entries), 6))
    return figure


def _draw_row(axes: np.ndarray, frame: pl.DataFrame, row: _Row, pairs: list[str], routers: list[str]) -> None:
    """One panel for each pair, with one x range for all."""
    for ax, pair in zip(axes, pairs, strict=True):
        for router in routers:
            _draw_router(ax, frame.filter(pair=pair, router=router).sort("cost"), router)
        style.show_percent(ax.yaxis)
        if row.axis == "call_ratio":
            style.show_percent(ax.xaxis)
    furthest = _furthest_x(frame)
    axes[0].set_xlim(-0.03 * furthest, 1.03 * furthest)
    axes[0].set_ylabel(f"{row.method}\n{ACCURACY}")
    for ax in axes:
        ax.set_xlabel(AXES[row.axis])


def _furthest_x(frame: pl.DataFrame) -> float:
    """The largest x that is drawn: of a point, or of an upper end where one is known."""
    ends = np.stack(style.float_columns(frame, "cost", "cost_high"))
    return float(ends[np.isfinite(ends)].max())


def _draw_router(ax: Axes, rows: pl.DataFrame, router: str) -> None:
    """A router's policies joined in order of their calls, with both intervals."""
    if not len(rows):
        return
    look = style.look_of(router)
    x_P, *x_ends_2P = style.float_columns(rows, "cost", "cost_low", "cost_high")
    y_3P = style.float_columns(rows, "accuracy", "accuracy_low", "accuracy_high")
    style.draw_points(
        ax,
        x_P,
        *y_3P,
        colour=look.colour,
        marker=look.marker,
        linestyle=look.line or "none",
        x_ends_2P=np.stack(x_ends_2P),
    )


def router_comparisons(frame: pl.DataFrame) -> Figure:
    """How likely each router is to beat each other one at the same call ratio, a panel for each pair."""
    style.require_rows(frame, "router_comparisons")
    pairs, remark = style.pairs_by_ratio(frame)
    routers = style.order_routers(frame["router"].unique())
    figure, axes = style.panels(len(pairs), columns=3, width=2.9, height=2.7)
    for ax, pair in zip(axes, pairs, strict=True):
        image = _draw_win_probabilities(ax, frame.filter(pair=pair), routers)
        ax.set_title(pair)
    figure.colorbar(image, ax=axes, shrink=0.6, label="probability that the row wins")
    call_ratio = 100 * frame["call_ratio"][0]
    figure.supxlabel(f"other router, both at a call ratio of {call_ratio:g} %{remark}", fontsize=9)
    figure.supylabel("router; cells: % of resampled prompt sets on which it is more accurate", fontsize=9)
    return figure


def _draw_win_probabilities(ax: Axes, rows: pl.DataFrame, routers: list[str]):
    """A coloured cell for each pair of routers, its probability written in percent; returns the image."""
    comparisons = rows.select("router", "other_router", "win_probability").iter_rows()
    probabilities = {(router, other): probability for router, other, probability in comparisons}
    win_RR = np.array([[probabilities.get((a, b), np.nan) for b in routers] for a in routers])
    image = ax.imshow(win_RR, cmap="PuOr_r", vmin=0, vmax=1)
    ax.grid(visible=False)
    for (row, column), win in np.ndenumerate(win_RR):
        if not np.isnan(win):
            colour = "white" if abs(win - 0.5) > 0.33 else INK
            ax.text(column, row, f"{100 * win:.0f}", ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(range(len(routers)), routers, rotation=45, ha="right")
    ax.set_yticks(range(len(routers)), routers)
    return image


def budgets(frame: pl.DataFrame) -> Figure:
    """Calls that policies made on test prompts against the budget that calibration prompts set."""
    style.require_rows(frame, "budgets")
    pairs, remark = style.pairs_by_ratio(frame)
    figure, axes = style.panels(len(pairs), columns=3)
    routers = style.order_routers(frame["router"].unique())
    for ax, pair in zip(axes, pairs, strict=True):
        ax.set_title(pair)
        largest = frame["budget"].max()
        ax.plot([0, largest], [0, largest], color=GREY, linewidth=0.8, linestyle=DASHES)
        _draw_budgets(ax, frame.filter(pair=pair), routers)
        style.show_percent(ax.xaxis, ax.yaxis)
        ax.set_xticks(sorted(frame["budget"].unique()))
    hollow = f"; hollow: of another method than {MAIN_METHOD}" if frame["method"].n_unique() > 1 else ""
    figure.supxlabel(f"Budget: call ratio aimed at on calibration prompts, %{remark}{hollow}", fontsize=9)
    figure.supylabel("Call ratio on test prompts, %", fontsize=9)
    entries = style.router_entries(routers)
    style.add_legend(figure, entries, columns=min(len(entries), 6))
    return figure


def _draw_budgets(ax: Axes, rows: pl.DataFrame, routers: list[str]) -> None:
    """Points of every method and router, routers set side by side."""
    for (method, router), group in rows.group_by("method", "router", maintain_order=True):
        look = style.look_of(router)
        columns = style.float_columns(group.sort("budget"), "budget", "cost", "cost_low", "cost_high")
        style.draw_points(
            ax,
            *columns,
            colour=look.colour,
            fmt=look.marker,
            shift=3.0 * (routers.index(router) - (len(routers) - 1) / 2),
            **style.method_look(method, look.colour),
        )
