"""Speculative decoding: accepted lengths, acceptance rates, expected speed-up."""

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fsgen.report.figures import style
from fsgen.report.figures.style import COLOURS, DASHES, DOTS, GREY, MARKERS

LINES = ("-", DASHES, DOTS, "-.")


def speculative(frame: pl.DataFrame) -> Figure:
    """Accepted drafts against K, acceptance rates, and the speed-up by the cost of a draft."""
    style.some(frame, "speculative")
    pairs, remark = style.pairs_by_ratio(frame.filter(kind="draft"), most=6)
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for place, pair in enumerate(pairs):
        own = frame.filter(kind="draft", pair=pair).sort("draft")
        looks = {"colour": COLOURS[place], "marker": MARKERS[place], "linestyle": "-"}
        style.points(left, *style.column(own, "draft", "value", "low", "high"), **looks)
        for y, quantity in enumerate(("greedy", "sampled")):
            part = frame.filter(kind="acceptance", pair=pair, quantity=quantity)
            if not len(part):
                continue
            value, above, low, high = (
                float(x[0]) for x in style.column(part, "value", "value_high", "low", "high")
            )
            at = y + 0.12 * (place - (len(pairs) - 1) / 2)
            middle.plot([low, high], [at, at], color=COLOURS[place], linewidth=0.9, alpha=0.6)
            middle.plot([value, above], [at, at], color=COLOURS[place], linewidth=3)
            middle.plot((value + above) / 2, at, MARKERS[place], color=COLOURS[place], markersize=4.5)
    left.set(xlabel="tokens drafted a round, K", ylabel="drafted tokens accepted a round")
    left.set_title("accepted length")
    middle.set_yticks([0, 1], ["greedy:\nargmaxes\nagree", "sampled:\nsum of\nmin(p, q)"])
    middle.set(xlabel="acceptance rate, % (thick: certified bounds)", ylim=(1.6, -0.6))
    middle.set_title("acceptance")
    style.in_percent(middle.xaxis)
    _draw_speed_up(right, frame.filter(kind="speedup", pair=pairs[-1]), pairs[-1])
    signs = [style.sign(pair, COLOURS[i], MARKERS[i]) for i, pair in enumerate(pairs)]
    style.key(figure, signs, columns=min(len(signs), 6))
    if remark:
        figure.supxlabel(f"shown:{remark}", fontsize=7.5)
    return figure


def _draw_speed_up(ax, own: pl.DataFrame, pair: str) -> None:
    """A curve a K over the cost of a draft, the pair's own FLOPs ratio marked."""
    for place, draft in enumerate(sorted(own["draft"].unique())):
        part = own.filter(draft=draft).sort("cost_ratio")
        x_P, y_P, low_P, high_P = style.column(part, "cost_ratio", "value", "low", "high")
        line = LINES[place % len(LINES)]
        ax.plot(x_P, y_P, color=COLOURS[place], linestyle=line, linewidth=1.2, label=f"K = {draft:g}")
        ax.fill_between(x_P, low_P, high_P, color=COLOURS[place], alpha=0.15, linewidth=0)
    if len(own):
        ax.axvline(own["own_cost_ratio"][0], color=GREY, linewidth=0.9)
        ax.annotate(
            "FLOPs ratio", (own["own_cost_ratio"][0], 0.02), xycoords=("data", "axes fraction"), fontsize=7
        )
    ax.axhline(1, color=GREY, linewidth=0.8, linestyle=DASHES)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.set(xlabel="cost ratio: small step / large pass", ylabel="expected speed-up over the large model")
    ax.set_title(f"speed-up, {pair}")
    if len(own):
        ax.legend(fontsize=7.5)
        ax.set_xlim(own["cost_ratio"].min(), 1)
