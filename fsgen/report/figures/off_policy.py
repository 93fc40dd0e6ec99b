"""What the dumps alone say about a policy: off-policy estimates, survival, reconvergence.

Shape legend: P points of a series.
"""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsgen.report.figures import style
from fsgen.report.figures.style import COLOURS, DASHES, GREY, INK, LINES, MARKERS


def off_policy(frame: pl.DataFrame) -> Figure:
    """Call ratios estimated off-policy against the rollouts' own, and how long policies follow the dump."""
    style.require_rows(frame, "off_policy")
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_estimates(left, frame.filter(kind="estimate"))
    _draw_survival(right, frame.filter(kind="survival"))
    style.show_percent(left.xaxis, left.yaxis, right.yaxis)
    return figure


def _draw_estimates(ax: Axes, rows: pl.DataFrame) -> None:
    """Off-policy estimates of all policies against the on-policy values, with the diagonal."""
    for (method, router), group in rows.sort("router").group_by("method", "router", maintain_order=True):
        look = style.look_of(router)
        x_P, *x_ends_2P = style.float_columns(
            group, "on_policy_value", "on_policy_value_low", "on_policy_value_high"
        )
        y_3P = style.float_columns(group, "off_policy", "off_policy_low", "off_policy_high")
        hollow = style.method_look(method, look.colour)
        ends = np.stack(x_ends_2P)
        style.draw_points(ax, x_P, *y_3P, colour=look.colour, fmt=look.marker, x_ends_2P=ends, **hollow)
    largest = max(rows["on_policy_value"].max(), rows["off_policy"].max()) * 1.05
    ax.plot([0, largest], [0, largest], color=GREY, linewidth=0.8, linestyle=DASHES)
    ax.set_xlabel("on-policy: along the policy's own text, % of tokens")
    ax.set_ylabel("off-policy: along the dumped text, % of tokens")
    ax.set_title("call ratio, all pairs; hollow: not oracle")
    ax.legend(handles=style.router_entries(sorted(rows["router"].unique())), fontsize=7.5)


def _draw_survival(ax: Axes, rows: pl.DataFrame) -> None:
    """Share of texts that are still the dumped one, a step curve for each policy."""
    for index, policy in enumerate(sorted(rows["policy"].unique(), key=_by_budget)):
        curve = rows.filter(policy=policy).sort("pos")
        pos_P, share_P, low_P, high_P = style.float_columns(curve, "pos", "survival", "low", "high")
        colour, line = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
        ax.step(pos_P, share_P, where="post", color=colour, linestyle=line, linewidth=1.2, label=policy)
        ax.fill_between(pos_P, low_P, high_P, step="post", color=colour, alpha=0.15, linewidth=0)
    ax.set_xlabel("tokens written")
    ax.set_ylabel("texts still on the dumped text, %")
    ax.set_title(rows["pair"][0] if len(rows) else "")
    ax.set_ylim(0, 1.03)
    if len(rows):
        ax.legend(fontsize=7.5)


def _by_budget(policy: str) -> tuple[str, float]:
    """A sort key: method and router, then the budget as a number."""
    head, _, budget = policy.partition("@")
    return head, float(budget or 0)


def reconvergence(frame: pl.DataFrame) -> Figure:
    """Share of first unrouted mismatches after which texts reconverge or answers agree, by entropy."""
    style.require_rows(frame, "reconvergence")
    pairs, remark = style.pairs_by_ratio(frame)
    figure, axes = style.panels(len(pairs), columns=3)
    bins = sorted(frame.select("entropy_low", "entropy_high").unique().rows())
    windows = sorted(frame["window"].unique())
    for ax, pair in zip(axes, pairs, strict=True):
        ax.set_title(pair)
        _draw_reconvergence(ax, frame.filter(pair=pair).sort("entropy_low"), bins, windows)
        labels = [f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g}+" for low, high in bins]
        ax.set_xticks(range(len(bins)), labels)
        ax.set_ylim(-0.03, 1.03)
        style.show_percent(ax.yaxis)
    figure.supxlabel(f"Entropy of the small model at the mismatch, nats{remark}", fontsize=9)
    figure.supylabel("Share of first unrouted mismatches, %", fontsize=9)
    entries = [
        style.legend_entry(f"texts equal again within {window} tokens", COLOURS[i], MARKERS[i])
        for i, window in enumerate(windows)
    ]
    style.add_legend(figure, [*entries, style.legend_entry("same final answer", INK, "v")], columns=2)
    return figure


def _draw_reconvergence(ax: Axes, rows: pl.DataFrame, bins: list[tuple], windows: list[int]) -> None:
    """Shares by entropy bin, a series for each window, and the share of equal answers."""
    for index, window in enumerate(windows):
        part = rows.filter(window=window)
        x_P = np.array([bins.index(edges) for edges in part.select("entropy_low", "entropy_high").rows()])
        y_3P = style.float_columns(
            part, "reconverged_share", "reconverged_share_low", "reconverged_share_high"
        )
        style.draw_points(ax, x_P, *y_3P, colour=COLOURS[index], fmt=MARKERS[index], shift=5.0 * (index - 1))
        if index == 0:  # the answers do not depend on the window
            same_3P = style.float_columns(part, "same_answer", "same_answer_low", "same_answer_high")
            style.draw_points(ax, x_P, *same_3P, colour=INK, fmt="v", shift=10.0)
