"""Speculative decoding: accepted lengths, acceptance rates, expected speed-up."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fsgen.report.figures import style
from fsgen.report.figures.style import COLOURS, DASHES, GREY, LINES, MARKERS

MOST_PAIRS = 6
MODES = ("greedy", "sampled")  # of acceptance, from top to bottom


def speculative(frame: pl.DataFrame) -> Figure:
    """Accepted drafts against K, acceptance rates, and the speed-up by the cost of a draft."""
    style.require_rows(frame, "speculative")
    pairs, remark = style.pairs_by_ratio(frame.filter(kind="draft"), most=MOST_PAIRS)
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for index, pair in enumerate(pairs):
        _draw_accepted_lengths(left, frame.filter(kind="draft", pair=pair), index)
        shift = 0.12 * (index - (len(pairs) - 1) / 2)
        _draw_acceptance(middle, frame.filter(kind="acceptance", pair=pair), index, shift)
    _label_accepted_lengths(left)
    _label_acceptance(middle)
    _draw_speed_up(right, frame.filter(kind="speedup", pair=pairs[-1]), pairs[-1])
    entries = [style.legend_entry(pair, COLOURS[i], MARKERS[i]) for i, pair in enumerate(pairs)]
    style.add_legend(figure, entries, columns=min(len(entries), 6))
    if remark:
        figure.supxlabel(f"shown:{remark}", fontsize=7.5)
    return figure


def _draw_accepted_lengths(ax: Axes, rows: pl.DataFrame, index: int) -> None:
    """One pair's curve over K."""
    columns = style.float_columns(rows.sort("draft_length"), "draft_length", "value", "low", "high")
    style.draw_points(ax, *columns, colour=COLOURS[index], marker=MARKERS[index], linestyle="-")


def _label_accepted_lengths(ax: Axes) -> None:
    ax.set(xlabel="tokens drafted a round, K", ylabel="drafted tokens accepted a round")
    ax.set_title("accepted length")


def _draw_acceptance(ax: Axes, rows: pl.DataFrame, index: int, shift: float) -> None:
    """One pair's rates: a thin interval over prompts, a thick line between the certified bounds."""
    colour = COLOURS[index]
    for y, mode in enumerate(MODES):
        row = rows.filter(mode=mode)
        if not len(row):
            continue
        (lower,), (upper,), (low,), (high,) = style.float_columns(row, "value", "value_high", "low", "high")
        height = y + shift
        ax.plot([low, high], [height, height], color=colour, linewidth=0.9, alpha=0.6)
        ax.plot([lower, upper], [height, height], color=colour, linewidth=3)
        ax.plot((lower + upper) / 2, height, MARKERS[index], color=colour, markersize=4.5)


def _label_acceptance(ax: Axes) -> None:
    ax.set_yticks(range(len(MODES)), ["greedy:\nargmaxes\nagree", "sampled:\nsum of\nmin(p, q)"])
    ax.set(xlabel="acceptance rate, % (thick: certified bounds)", ylim=(1.6, -0.6))
    ax.set_title("acceptance")
    style.show_percent(ax.xaxis)


def _draw_speed_up(ax: Axes, rows: pl.DataFrame, pair: str) -> None:
    """One pair's curves over the cost of a draft, one for each K, with its FLOPs ratio marked."""
    for index, draft in enumerate(sorted(rows["draft_length"].unique())):
        curve = rows.filter(draft_length=draft).sort("cost_ratio")
        x_P, y_P, low_P, high_P = style.float_columns(curve, "cost_ratio", "value", "low", "high")
        line = LINES[index % len(LINES)]
        ax.plot(x_P, y_P, color=COLOURS[index], linestyle=line, linewidth=1.2, label=f"K = {draft:g}")
        ax.fill_between(x_P, low_P, high_P, color=COLOURS[index], alpha=0.15, linewidth=0)
    if len(rows):
        ratio = rows["flops_ratio"][0]
        ax.axvline(ratio, color=GREY, linewidth=0.9)
        ax.annotate("FLOPs ratio", (ratio, 0.02), xycoords=("data", "axes fraction"), fontsize=7)
    ax.axhline(1, color=GREY, linewidth=0.8, linestyle=DASHES)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.set(xlabel="cost ratio: small step / large pass", ylabel="expected speed-up over the large model")
    ax.set_title(f"speed-up, {pair}")
    if len(rows):
        ax.legend(fontsize=7.5)
        ax.set_xlim(rows["cost_ratio"].min(), 1)
