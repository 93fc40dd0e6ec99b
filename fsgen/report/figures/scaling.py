"""CoF and model size: published points and laws, our own points and laws, and both sizes at once.

Shape legend: P pairs.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from fsgen.report.figures import style
from fsgen.report.figures.style import BAND, CLAIM, COLOURS, DASHES, GREY, INK, MARKERS

CURVES = {"power": DASHES, "log_ratio": "-"}  # laws that are drawn over the published points


class _HeldOut(NamedTuple):
    """How a held-out error is drawn."""

    label: str
    colour: str
    marker: str
    shift: float
    """Of its height."""


HELD_OUT = {
    "loo_rmse": _HeldOut("error on a pair left out", COLOURS[4], "v", 0.16),
    "small_out_rmse": _HeldOut("on a small model left out", INK, "P", -0.16),
}
LAW_NAMES = {
    "power": "power of ratio (authors)",
    "log_ratio": "log of ratio",
    "two_size": "log of both sizes",
    "product": "product of powers",
    "gap": "gap of powers",
}


def published(frame: pl.DataFrame) -> Figure:
    """The published points with two laws, a panel for each method, and every law's held-out error."""
    style.require_rows(frame, "published")
    points = frame.filter(kind="point")
    methods, datasets = sorted(points["method"].unique()), sorted(points["dataset"].unique())
    figure = Figure(figsize=(2.4 * len(methods) + 3.6, 3.6), layout="constrained")
    grid = figure.add_gridspec(1, len(methods) + 1, width_ratios=[1] * len(methods) + [1.15])
    axes = _add_method_panels(figure, grid, methods)
    for ax, method in zip(axes, methods, strict=True):
        _draw_method(ax, frame.filter(method=method), datasets)
    style.set_ratio_axis(axes[0], points["ratio"].to_numpy())
    axes[0].set_ylim(0)
    _draw_errors(figure.add_subplot(grid[-1]), frame.filter(kind="error"))
    style.add_legend(figure, _published_entries(datasets), columns=5)
    return figure


def _add_method_panels(figure: Figure, grid: GridSpec, methods: list[str]) -> list[Axes]:
    """A titled panel for each method, all with the axes of the first."""
    axes: list[Axes] = []
    for index, method in enumerate(methods):
        first = axes[0] if axes else None
        ax = figure.add_subplot(grid[index], sharey=first, sharex=first)
        ax.set_title(method)
        ax.tick_params(labelleft=index == 0)
        ax.set_xlabel("size ratio, large / small (log)")
        axes.append(ax)
    axes[0].set_ylabel("CoF, % of tokens")
    return axes


def _draw_method(ax: Axes, frame: pl.DataFrame, datasets: list[str]) -> None:
    """A method's points over the claimed band, and two laws, in a colour for each dataset."""
    ax.axhspan(0, CLAIM, color=BAND, zorder=0)
    for index, dataset in enumerate(datasets):
        colour = COLOURS[index]
        points = frame.filter(kind="point", dataset=dataset)
        ax.plot(
            points["ratio"], 100 * points["cof"], MARKERS[index], color=colour, markersize=3.5, alpha=0.85
        )
        for law, line in CURVES.items():
            curve = frame.filter(kind="curve", dataset=dataset, law=law).sort("ratio")
            ax.plot(curve["ratio"], 100 * curve["cof"], color=colour, linestyle=line, linewidth=0.9)


def _published_entries(datasets: list[str]) -> list[Line2D | Patch]:
    """Legend entries: datasets, laws, the claimed band, held-out errors."""
    return [
        *(style.legend_entry(name, COLOURS[i], MARKERS[i]) for i, name in enumerate(datasets)),
        *(style.legend_entry(LAW_NAMES[law], GREY, line=line) for law, line in CURVES.items()),
        style.claim_patch(),
        *(style.legend_entry(error.label, error.colour, error.marker) for error in HELD_OUT.values()),
    ]


def _draw_errors(ax: Axes, errors: pl.DataFrame) -> None:
    """Held-out error of each law: a pale point for each series, a strong one for their mean."""
    laws = [law for law in LAW_NAMES if law in errors["law"].unique()]
    for column, (_, colour, marker, shift) in HELD_OUT.items():
        for y, law in enumerate(laws):
            rmse_P = 100 * errors.filter(law=law)[column].drop_nulls().to_numpy()
            height_P = np.full(len(rmse_P), y + shift)
            ax.plot(rmse_P, height_P, marker, color=colour, alpha=0.25, markersize=3)
            ax.plot(rmse_P.mean(), y + shift, marker, color=colour, markersize=6.5, markeredgecolor="white")
    ax.set_yticks(range(len(laws)), [LAW_NAMES[law] for law in laws])
    ax.set_ylim(max(len(laws), 1) - 0.5, -0.5)
    ax.set_xlim(0)
    ax.set_xlabel("RMSE, points of CoF\n(pale: a series, strong: their mean)")
    ax.set_title("which law predicts?")


def cof(frame: pl.DataFrame) -> Figure:
    """CoF of our own pairs against their size ratio, a panel a dataset and a colour a method."""
    points = style.require_rows(frame.filter(kind="point"), "cof")
    datasets, methods = sorted(frame["dataset"].unique()), sorted(frame["method"].unique())
    figure, axes = style.panels(len(datasets), columns=4)
    for ax, dataset in zip(axes, datasets, strict=True):
        ax.set_title(dataset)
        ax.axhspan(0, CLAIM, color=BAND, zorder=0)
        for index, method in enumerate(methods):
            shift = 3.5 * (index - (len(methods) - 1) / 2)
            _draw_series(ax, frame.filter(dataset=dataset, method=method), index, shift)
    ratio_P, high_P = style.float_columns(points, "ratio", "high")
    style.set_ratio_axis(axes[0], ratio_P)
    axes[0].set_ylim(0, max(106 * np.nanmax(high_P), 1.25 * CLAIM))
    figure.supxlabel("Size ratio, large / small (non-embedding parameters, log scale)", fontsize=9)
    figure.supylabel("CoF: mismatches, % of answer tokens", fontsize=9)
    style.add_legend(figure, _cof_entries(frame, methods), columns=3 if len(axes) < 3 else 6)
    return figure


def _draw_series(ax: Axes, rows: pl.DataFrame, index: int, shift: float) -> None:
    """Points with their intervals, shifted on paper to stand side by side, and the fitted law."""
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    points = rows.filter(kind="point").sort("ratio")
    x_P, *y_3P = style.float_columns(points, "ratio", "cof", "low", "high")
    style.draw_points(ax, x_P, *(100 * y_P for y_P in y_3P), colour=colour, fmt=marker, shift=shift)
    curve = rows.filter(kind="curve").sort("ratio")
    if len(curve):
        line = "-" if curve["identified"][0] else DASHES
        ax.plot(curve["ratio"], 100 * curve["cof"], color=colour, linewidth=0.9, linestyle=line, zorder=2)


def _cof_entries(frame: pl.DataFrame, methods: list[str]) -> list[Line2D | Patch]:
    """Legend entries: methods, the kinds of curve that occur, the claimed band."""
    entries = [
        style.legend_entry(method, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, method in enumerate(methods)
    ]
    identified = set(frame.filter(kind="curve")["identified"])
    if True in identified:
        entries.append(style.legend_entry("linear in log ratio", GREY, line="-"))
    if False in identified:
        entries.append(style.legend_entry("linear in log ratio, not identified", GREY, line=DASHES))
    return [*entries, style.claim_patch()]


def surface(frame: pl.DataFrame) -> Figure:
    """CoF of the oracle over both sizes, a panel for each dataset: stems from zero, with intervals."""
    style.require_rows(frame, "surface")
    panels = frame.select("source", "dataset").unique().sort("source", "dataset").rows()[: style.MOST_PANELS]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.3 * rows + 0.3))
    for number, (source, dataset) in enumerate(panels, 1):
        ax = figure.add_subplot(rows, columns, number, projection="3d")
        _draw_stems(ax, frame.filter(source=source, dataset=dataset))
        ax.set_title(f"{dataset}, {'published' if source == 'published' else 'own dumps'}")
    figure.subplots_adjust(left=0.02, right=0.95, bottom=0.06, top=0.92, wspace=0.12, hspace=0.12)
    return figure


def _draw_stems(ax: Axes, rows: pl.DataFrame) -> None:
    """A stem for each pair, over the logarithms of both sizes."""
    small_P, large_P, *cof_3P = style.float_columns(rows, "small_b", "large_b", "cof", "low", "high")
    x_P, y_P = np.log10(small_P), np.log10(large_P)
    z_P, low_P, high_P = (100 * cof_P for cof_P in cof_3P)
    for x, y, z, low, high in zip(x_P, y_P, z_P, low_P, high_P, strict=True):
        ax.plot([x, x], [y, y], [0, z], color=GREY, linewidth=0.6)
        ax.plot([x, x], [y, y], [low, high], color=INK, linewidth=2)
    ax.scatter(x_P, y_P, z_P, c=z_P, cmap="cividis", vmin=0, depthshade=False, edgecolor="white")
    for set_ticks, billions_P in ((ax.set_xticks, small_P), (ax.set_yticks, large_P)):
        sizes = np.unique(billions_P)
        set_ticks(np.log10(sizes), [_format_size(size) for size in sizes], fontsize=6.5)
    ax.zaxis.set_major_formatter(FuncFormatter(lambda z, _: f"{z:g}"))
    ax.set_xlabel("small (log)", fontsize=7.5)
    ax.set_ylabel("large (log)", fontsize=7.5)
    ax.set_zlabel("CoF, %", fontsize=7.5)
    ax.set_zlim(0)
    ax.view_init(elev=22, azim=-58)


def _format_size(billions: float) -> str:
    """A number of parameters with its unit: 0.5B, 23k."""
    for unit, size in (("B", 1.0), ("M", 1e-3), ("k", 1e-6)):
        if billions >= size:
            return f"{billions / size:.3g}{unit}"
    return f"{billions * 1e9:.0f}"
