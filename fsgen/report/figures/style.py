"""What figures share: palette, type, panels, legends, points with their intervals.

Shape legend: P points of a series.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from fsgen.errors import UserError
from fsgen.tables.schemas.scaling import CLAIMED_COF

# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is too light for a line
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, GREY, BAND = "#222222", "#767676", "#F3F1E7"
DASHES, DOTS = (0, (4, 3)), (0, (1, 1.5))
LINES = ("-", DASHES, DOTS, "-.")
CLAIM = 100 * CLAIMED_COF  # percent, the unit of the axes
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


class Look(NamedTuple):
    """How a router is drawn in every figure."""

    colour: str
    line: str | tuple
    marker: str


# references, which no one would run, are grey or black
ROUTERS = {
    "entropy": Look(COLOURS[0], "-", "o"),
    "max_probability": Look(COLOURS[1], "-", "s"),
    "margin": Look(COLOURS[2], "-", "D"),
    "logistic": Look(COLOURS[3], "-", "^"),
    "svm": Look(COLOURS[5], "-", "v"),
    "random": Look(GREY, DASHES, "X"),
    "perfect": Look(INK, DOTS, "P"),
    "never": Look(INK, "", "<"),
    "always": Look(INK, "", ">"),
}
REFERENCES = ("random", "perfect")  # listed after all other routers
MAIN_METHOD = "oracle"  # whose points are filled; those of other methods are hollow


def look_of(router: str) -> Look:
    """The look of a router, or of the router that compares a score of this name."""
    return ROUTERS.get(router, Look(COLOURS[4], "-", "*"))


def order_routers(names: Iterable[str]) -> list[str]:
    """Routers by name, references last."""
    return sorted(names, key=lambda name: (name in REFERENCES, name))


def method_look(method: str, colour: str) -> dict:
    """Marker options of a policy's point: filled for MAIN_METHOD, hollow for another method."""
    return {} if method == MAIN_METHOD else {"markerfacecolor": "white", "markeredgecolor": colour}


def require_rows(frame: pl.DataFrame, figure: str) -> pl.DataFrame:
    """The frame; raises UserError where it has no row to draw."""
    if not len(frame):
        raise UserError(
            f"The figure '{figure}' has nothing to draw: its query found no row; run 'dvc repro'."
        )
    return frame


def panels(
    count: int, columns: int, *, width: float = 2.6, height: float = 2.4, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of at most `columns`, and its axes; sizes of a panel in inches."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(1.0 + width * columns, 6.4), 1.4 + height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel()
    for spare in axes[count:]:
        spare.remove()
    for lowest in axes[max(count - columns, 0) : count]:
        lowest.tick_params(labelbottom=True)
    return figure, list(axes[:count])


def add_legend(figure: Figure, entries: Sequence[Line2D | Patch], columns: int) -> None:
    """Draw a legend above all panels."""
    figure.legend(handles=entries, loc="outside upper center", ncols=columns, columnspacing=1.6)


def legend_entry(label: str, colour: str, marker: str = "", line: str | tuple = "") -> Line2D:
    """An entry of a legend: a marker, a line, or both."""
    return Line2D([], [], color=colour, marker=marker, markersize=4.5, linestyle=line, label=label)


def router_entries(names: Iterable[str], with_lines: bool = False) -> list[Line2D]:
    """Legend entries of routers or scores, in this order."""
    looks = {name: look_of(name) for name in names}
    return [
        legend_entry(name, look.colour, look.marker, look.line if with_lines else "")
        for name, look in looks.items()
    ]


def claim_patch() -> Patch:
    """Legend entry of the band below the claimed share."""
    return Patch(color=BAND, label=f"claimed: below {CLAIM:.0f} %")


def draw_points(
    ax: Axes, x_P, y_P, low_P, high_P, *, colour: str, shift: float = 0.0, x_ends_2P=None, **options
) -> ErrorbarContainer:
    """Draw points with white rims over paler intervals, shifted to the right by `shift` points on paper.

    An interval that is not known (nan) is not drawn. `x_ends_2P` are the ends of intervals along x, `options`
    those of `Axes.errorbar`.
    """
    x_P, y_P, low_P, high_P = (np.asarray(values, dtype=float) for values in (x_P, y_P, low_P, high_P))
    _fit_axes(ax, x_P, y_P, low_P, high_P)
    xerr = None if x_ends_2P is None else np.abs(np.asarray(x_ends_2P, dtype=float) - x_P)
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
        transform=ax.transData + ScaledTranslation(shift / 72, 0, ax.figure.dpi_scale_trans),
        **({"markeredgecolor": "white"} | options),
    )


def _fit_axes(ax: Axes, x_P: np.ndarray, *curves: np.ndarray) -> None:
    """Extend the axes to these points: autoscaling ignores artists with their own transform."""
    for y_P in curves:
        ax.update_datalim(np.column_stack([x_P, y_P])[np.isfinite(y_P)])
    ax.autoscale_view()


def thin_out(names: Sequence[str], most: int = MOST_PANELS) -> list[str]:
    """At most so many of them, evenly from first to last."""
    indices = np.linspace(0, max(len(names) - 1, 0), min(len(names), most)).round().astype(int)
    return [names[index] for index in indices]


def pairs_by_ratio(frame: pl.DataFrame, most: int = MOST_PANELS) -> tuple[list[str], str]:
    """Pairs from the closest sizes to the most distant, and a remark where some are left out."""
    ordered = frame.select("pair", "ratio").unique().sort("ratio", "pair")["pair"].to_list()
    shown = thin_out(ordered, most)
    return shown, f" ({len(shown)} of {len(ordered)} pairs)" if len(shown) < len(ordered) else ""


def show_percent(*axes: Axis) -> None:
    """Label shares on these axes in percent."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))


def set_ratio_axis(ax: Axes, ratio_P: np.ndarray) -> None:
    """Make x a logarithmic axis of size ratios, labelled with plain numbers."""
    is_narrow = ratio_P.max() < 30 * ratio_P.min()
    ax.set_xscale("log")
    ax.set_xlim(ratio_P.min() / 1.4, ratio_P.max() * 1.4)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1, 3)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def float_columns(frame: pl.DataFrame, *names: str) -> tuple[np.ndarray, ...]:
    """Columns as float arrays [P], null as nan."""
    return tuple(frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in names)
