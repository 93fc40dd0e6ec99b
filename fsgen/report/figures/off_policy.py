"""What the dumps alone can say of a policy: estimates beside rollouts, survival, reunions."""

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from fsgen.report.figures import style
from fsgen.report.figures.style import COLOURS, DASHES, GREY, INK, MARKERS


def estimates(frame: pl.DataFrame) -> Figure:
    """Call ratios estimated off-policy against the rollouts' own, and how long the dumped text holds."""
    style.some(frame, "estimates")
    told, kept = frame.filter(kind="estimate"), frame.filter(kind="survival")
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (method, router), own in told.sort("router").group_by("method", "router", maintain_order=True):
        colour, _, marker = style.look(router)
        x_3P = style.column(own, "exact", "exact_low", "exact_high")
        y_3P = style.column(own, "estimate", "estimate_low", "estimate_high")
        looks = {"fmt": marker, "x_ends": np.stack(x_3P[1:])} | style.of_method(method, colour)
        style.points(left, x_3P[0], *y_3P, colour=colour, **looks)
    most = max(told["exact"].max(), told["estimate"].max()) * 1.05
    left.plot([0, most], [0, most], color=GREY, linewidth=0.8, linestyle=DASHES)
    left.set_xlabel("exact: on the policy's own text, % of tokens")
    left.set_ylabel("estimate: on the dumped text, % of tokens")
    left.set_title("call ratio, all pairs; hollow: not oracle")
    signs = [style.sign(r, style.look(r)[0], style.look(r)[2]) for r in sorted(told["router"].unique())]
    left.legend(handles=signs, fontsize=7.5)
    for place, policy in enumerate(sorted(kept["policy"].unique(), key=_budget)):
        own = kept.filter(policy=policy).sort("pos")
        pos_P, share_P, low_P, high_P = style.column(own, "pos", "survival", "low", "high")
        colour = COLOURS[place % len(COLOURS)]
        line = ("-", DASHES, style.DOTS, "-.")[place % 4]
        right.step(pos_P, share_P, where="post", color=colour, linestyle=line, linewidth=1.2, label=policy)
        right.fill_between(pos_P, low_P, high_P, step="post", color=colour, alpha=0.15, linewidth=0)
    right.set_xlabel("tokens written")
    right.set_ylabel("texts still on the dumped text, %")
    right.set_title(kept["pair"][0] if len(kept) else "")
    right.set_ylim(0, 1.03)
    if len(kept):
        right.legend(fontsize=7.5)
    style.in_percent(left.xaxis, left.yaxis, right.yaxis)
    return figure


def _budget(policy: str) -> tuple:
    head, _, budget = policy.partition("@")
    return head, float(budget or 0)


def reconvergence(frame: pl.DataFrame) -> Figure:
    """After a mismatch that nobody routed: do the texts meet again, is the answer the same, by entropy."""
    style.some(frame, "reconvergence")
    pairs, remark = style.pairs_by_ratio(frame)
    figure, axes = style.panels(len(pairs), columns=3)
    bins = sorted(frame.select("entropy_low", "entropy_high").unique().rows())
    within = sorted(frame["within"].unique())
    for ax, pair in zip(axes, pairs, strict=True):
        ax.set_title(pair)
        own = frame.filter(pair=pair).sort("entropy_low")
        for place, tokens in enumerate(within):
            part = own.filter(within=tokens)
            x_P = np.array([bins.index(row) for row in part.select("entropy_low", "entropy_high").rows()])
            columns = style.column(part, "share", "low", "high")
            looks = {"fmt": MARKERS[place], "aside": 5.0 * (place - 1)}
            style.points(ax, x_P, *columns, colour=COLOURS[place], **looks)
            if place == 0:
                same = style.column(part, "same_answer", "same_low", "same_high")
                style.points(ax, x_P, *same, colour=INK, fmt="v", aside=10.0)
        labels = [f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g}+" for low, high in bins]
        ax.set_xticks(range(len(bins)), labels)
        ax.set_ylim(-0.03, 1.03)
        style.in_percent(ax.yaxis)
    figure.supxlabel(f"Entropy of the small model at the mismatch, nats{remark}", fontsize=9)
    figure.supylabel("Share of first unrouted mismatches, %", fontsize=9)
    signs = [
        style.sign(f"same words again within {tokens} tokens", COLOURS[i], MARKERS[i])
        for i, tokens in enumerate(within)
    ]
    style.key(figure, [*signs, style.sign("same final answer", INK, "v")], columns=2)
    return figure
