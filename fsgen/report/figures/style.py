"""What figures share: palette, type, panels, keys, points with their intervals.

Shape legend: P points of a series.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from fsgen.errors import UserError

# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is too light for a line
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, GREY, BAND = "#222222", "#767676", "#F3F1E7"
DASHES, DOTS = (0, (4, 3)), (0, (1, 1.5))
CLAIM = 20.0  # percent of tokens: "fewer than 20 % of interactions" (arXiv 2406.12295, abstract)
MOST_PANELS = 9
STYLE = {
    "svg.hashsalt": "fsgen",
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E2E2DE",
    "grid.linewidth": 0.6,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
}
# routers keep their look through all figures; references, which no one would run, are grey
ROUTERS = {
    "entropy": (COLOURS[0], "-", "o"),
    "threshold": (COLOURS[1], "-", "s"),
    "margin": (COLOURS[2], "-", "D"),
    "logistic": (COLOURS[3], "-", "^"),
    "svm": (COLOURS[5], "-", "v"),
    "random": (GREY, DASHES, "X"),
    "perfect": (INK, DOTS, "P"),
    "never": (INK, "", "<"),
    "always": (INK, "", ">"),
}
SCORES = {"max_probability": "threshold"}  # scores that routers know by another name


def look(router: str) -> tuple:
    """Colour, line and marker of a router or of the score that it compares."""
    return ROUTERS.get(SCORES.get(router, router), (COLOURS[4], "-", "*"))


def some(frame: pl.DataFrame, figure: str) -> pl.DataFrame:
    """The frame, or a Complaint where it has nothing to draw."""
    if not len(frame):
        raise UserError(
            f"The figure '{figure}' has nothing to draw: its query found no row; run 'dvc repro'."
        )
    return frame


def panels(count: int, columns: int, *, width: float = 2.6, height: float = 2.4, share: bool = True):
    """A figure of `count` panels in rows of at most `columns`; the figure and its axes."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(1.0 + width * columns, 6.4), 1.4 + height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel()
    for spare in axes[count:]:
        spare.remove()
    for lowest in axes[max(count - columns, 0) : count]:
        lowest.tick_params(labelbottom=True)
    return figure, list(axes[:count])


def key(figure: Figure, signs: Sequence[Line2D | Patch], columns: int) -> None:
    """A legend above all panels."""
    figure.legend(handles=signs, loc="outside upper center", ncols=columns, columnspacing=1.6)


def sign(label: str, colour: str, marker: str = "", line: str | tuple = "") -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], color=colour, marker=marker, markersize=4.5, linestyle=line, label=label)


def of_method(method: str, colour: str) -> dict:
    """Looks of a policy's point: full where the oracle fuses, hollow where another method does."""
    return {} if method == "oracle" else {"markerfacecolor": "white", "markeredgecolor": colour}


def points(ax: Axes, x_P, y_P, low_P, high_P, *, colour: str, aside: float = 0.0, x_ends=None, **looks):
    """Points with white rims over paler intervals, moved aside by so many points on paper.

    An interval that is not known (nan) is not drawn.
    """
    x_P, y_P, low_P, high_P = (np.asarray(a, dtype=float) for a in (x_P, y_P, low_P, high_P))
    moved = ax.transData + ScaledTranslation(aside / 72, 0, ax.figure.dpi_scale_trans)
    for edge_P in (y_P, low_P, high_P):  # which a moved artist would not tell the axes
        ax.update_datalim(np.column_stack([x_P, edge_P])[np.isfinite(edge_P)])
    ax.autoscale_view()
    xerr = None if x_ends is None else np.abs(np.asarray(x_ends, dtype=float) - x_P)
    return ax.errorbar(
        x_P,
        y_P,
        yerr=np.nan_to_num([y_P - low_P, high_P - y_P]).clip(0),
        xerr=xerr,
        color=colour,
        ecolor=to_rgba(colour, 0.55),
        elinewidth=0.9,
        linewidth=1,
        markersize=4.5,
        markeredgewidth=0.5,
        zorder=3,
        transform=moved,
        **({"markeredgecolor": "white"} | looks),
    )


def spread(names: Sequence[str], most: int = MOST_PANELS) -> list[str]:
    """At most so many of them, evenly from first to last."""
    places = np.linspace(0, max(len(names) - 1, 0), min(len(names), most)).round().astype(int)
    return [names[place] for place in places]


def pairs_by_ratio(frame: pl.DataFrame, most: int = MOST_PANELS) -> tuple[list[str], str]:
    """Pairs from the closest sizes to the most distant, and a remark where some are left out."""
    ordered = frame.select("pair", "ratio").unique().sort("ratio", "pair")["pair"].to_list()
    shown = spread(ordered, most)
    return shown, f" ({len(shown)} of {len(ordered)} pairs)" if len(shown) < len(ordered) else ""


def in_percent(*axes) -> None:
    """Shares on these axes told in percent."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))


def ratio_axis(ax: Axes, ratio_P: np.ndarray) -> None:
    """A logarithmic axis of size ratios with numbers that people read."""
    is_narrow = ratio_P.max() < 30 * ratio_P.min()
    ax.set_xscale("log")
    ax.set_xlim(ratio_P.min() / 1.4, ratio_P.max() * 1.4)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1, 3)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def column(frame: pl.DataFrame, *names: str) -> tuple[np.ndarray, ...]:
    """Columns as floats, null as nan."""
    return tuple(frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in names)
