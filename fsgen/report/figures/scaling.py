"""CoF and model size: published points and laws, our own points and laws, and both sizes at once."""

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from fsgen.report.figures import style
from fsgen.report.figures.style import BAND, CLAIM, COLOURS, DASHES, GREY, INK, MARKERS

CURVES = {"power": (INK, DASHES), "log_ratio": (INK, "-")}
LEFT_OUT = {
    "loo_rmse": ("error on a pair left out", COLOURS[4], "v", 0.16),
    "small_out_rmse": ("on a small model left out", INK, "P", -0.16),
}
NAMES = {
    "power": "power of ratio (authors)",
    "log_ratio": "log of ratio",
    "two_size": "log of both sizes",
    "product": "product of powers",
    "gap": "gap of powers",
}


def published(frame: pl.DataFrame) -> Figure:
    """The published points with two laws, a panel a method; beside them every law's held-out error."""
    style.some(frame, "published")
    shown, errors = frame.filter(pl.col("kind") == "point"), frame.filter(kind="error")
    curves = frame.filter(pl.col("kind") == "curve")
    methods = sorted(shown["method"].unique())
    datasets = sorted(shown["dataset"].unique())
    figure = Figure(figsize=(2.4 * len(methods) + 3.6, 3.6), layout="constrained")
    grid = figure.add_gridspec(1, len(methods) + 1, width_ratios=[1] * len(methods) + [1.15])
    first = None
    for place, method in enumerate(methods):
        ax = first = figure.add_subplot(grid[place], sharey=first, sharex=first)
        ax.set_title(method)
        ax.axhspan(0, CLAIM, color=BAND, zorder=0)
        for i, dataset in enumerate(datasets):
            own = shown.filter(method=method, dataset=dataset)
            ax.plot(own["ratio"], 100 * own["cof"], MARKERS[i], color=COLOURS[i], markersize=3.5, alpha=0.85)
            for law, (_, line) in CURVES.items():
                curve = curves.filter(method=method, dataset=dataset, law=law).sort("ratio")
                ax.plot(curve["ratio"], 100 * curve["cof"], color=COLOURS[i], linestyle=line, linewidth=0.9)
        ax.tick_params(labelleft=place == 0)
        if place == 0:
            ax.set_ylabel("CoF, % of tokens")
        ax.set_xlabel("size ratio, large / small (log)")
    style.ratio_axis(first, shown["ratio"].to_numpy())
    first.set_ylim(0)
    _draw_errors(figure.add_subplot(grid[-1]), errors)
    signs = [style.sign(d, COLOURS[i], MARKERS[i]) for i, d in enumerate(datasets)]
    signs += [style.sign(NAMES[law], GREY, line=line) for law, (_, line) in CURVES.items()]
    signs += [Patch(color=BAND, label=f"claimed: below {CLAIM:.0f} %")]
    signs += [style.sign(label, colour, marker) for label, colour, marker, _ in LEFT_OUT.values()]
    style.key(figure, signs, columns=5)
    return figure


def _draw_errors(ax, errors: pl.DataFrame) -> None:
    """Held-out error of each law: a pale point a series, a strong one for their mean."""
    laws = [law for law in NAMES if law in errors["law"].unique()]
    for column, (_, colour, marker, aside) in LEFT_OUT.items():
        for y, law in enumerate(laws):
            own = 100 * errors.filter(law=law)[column].drop_nulls().to_numpy()
            ax.plot(own, np.full(len(own), y + aside), marker, color=colour, alpha=0.25, markersize=3)
            ax.plot(own.mean(), y + aside, marker, color=colour, markersize=6.5, markeredgecolor="white")
    ax.set_yticks(range(len(laws)), [NAMES[law] for law in laws])
    ax.set_ylim(max(len(laws), 1) - 0.5, -0.5)
    ax.set_xlim(0)
    ax.set_xlabel("RMSE, points of CoF\n(pale: a series, strong: their mean)")
    ax.set_title("which law predicts?")


def cof(frame: pl.DataFrame) -> Figure:
    """CoF of our own pairs against their size ratio, a panel a dataset and a colour a method."""
    style.some(frame.filter(pl.col("kind") == "point"), "cof")
    datasets, methods = sorted(frame["dataset"].unique()), sorted(frame["method"].unique())
    shown = frame.filter(pl.col("kind") == "point")
    figure, axes = style.panels(len(datasets), columns=4)
    for ax, dataset in zip(axes, datasets, strict=True):
        ax.set_title(dataset)
        ax.axhspan(0, CLAIM, color=BAND, zorder=0)
        for place, method in enumerate(methods):
            own = frame.filter(dataset=dataset, method=method)
            _draw_series(ax, own, place, len(methods))
    ratio_P, high_P = style.column(shown, "ratio", "high")
    style.ratio_axis(axes[0], ratio_P)
    axes[0].set_ylim(0, max(106 * np.nanmax(high_P), 1.25 * CLAIM))
    figure.supxlabel("Size ratio, large / small (non-embedding parameters, log scale)", fontsize=9)
    figure.supylabel("CoF: mismatches, % of answer tokens", fontsize=9)
    style.key(figure, _cof_signs(frame, methods), columns=3 if len(axes) < 3 else 6)
    return figure


def _draw_series(ax, own: pl.DataFrame, place: int, methods: int) -> None:
    """Points with their intervals, methods set side by side, and the law beneath them."""
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    x_P, *y_3P = style.column(own.filter(kind="point").sort("ratio"), "ratio", "cof", "low", "high")
    aside = 3.5 * (place - (methods - 1) / 2)  # points on paper; the data stay where they are
    style.points(ax, x_P, *(100 * y for y in y_3P), colour=colour, fmt=marker, aside=aside)
    curve = own.filter(kind="curve").sort("ratio")
    if len(curve):
        line = "-" if curve["identified"][0] else DASHES
        ax.plot(curve["ratio"], 100 * curve["cof"], color=colour, linewidth=0.9, linestyle=line, zorder=2)


def _cof_signs(frame: pl.DataFrame, methods: list[str]) -> list:
    """A sign for each method, for the kinds of line that occur, and for the band."""
    signs = [
        style.sign(method, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, method in enumerate(methods)
    ]
    fitted = set(frame.filter(kind="curve")["identified"])
    if True in fitted:
        signs.append(style.sign("linear in log ratio", GREY, line="-"))
    if False in fitted:
        signs.append(style.sign("linear in log ratio, not identified", GREY, line=DASHES))
    return [*signs, Patch(color=BAND, label=f"claimed: below {CLAIM:.0f} %")]


def surface(frame: pl.DataFrame) -> Figure:
    """CoF of the oracle over both sizes, a panel a dataset: stems from the floor, with intervals."""
    style.some(frame, "surface")
    titles = frame.select("basis", "dataset").unique().sort("basis", "dataset").rows()[: style.MOST_PANELS]
    columns = min(len(titles), 3)
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.3 * rows + 0.3))
    for place, (basis, dataset) in enumerate(titles, 1):
        ax = figure.add_subplot(rows, columns, place, projection="3d")
        own = frame.filter(basis=basis, dataset=dataset)
        small_P, large_P, cof_P, low_P, high_P = style.column(own, "small_b", "large_b", "cof", "low", "high")
        x_P, y_P = np.log10(small_P), np.log10(large_P)
        for x, y, z, low, high in zip(x_P, y_P, 100 * cof_P, 100 * low_P, 100 * high_P, strict=True):
            ax.plot([x, x], [y, y], [0, z], color=GREY, linewidth=0.6)
            ax.plot([x, x], [y, y], [low, high], color=INK, linewidth=2)
        ax.scatter(
            x_P, y_P, 100 * cof_P, c=100 * cof_P, cmap="cividis", vmin=0, depthshade=False, edgecolor="white"
        )
        for set_ticks, values in ((ax.set_xticks, small_P), (ax.set_yticks, large_P)):
            sizes = np.unique(values)
            set_ticks(np.log10(sizes), [_size(size) for size in sizes], fontsize=6.5)
        ax.zaxis.set_major_formatter(FuncFormatter(lambda z, _: f"{z:g}"))
        ax.set_xlabel("small (log)", fontsize=7.5)
        ax.set_ylabel("large (log)", fontsize=7.5)
        ax.set_zlabel("CoF, %", fontsize=7.5)
        ax.set_zlim(0)
        ax.view_init(elev=22, azim=-58)
        ax.set_title(f"{dataset}, {'published' if basis == 'published' else 'own dumps'}")
    figure.subplots_adjust(left=0.02, right=0.95, bottom=0.06, top=0.92, wspace=0.12, hspace=0.12)
    return figure


def _size(billions: float) -> str:
    """A number of parameters as people write it."""
    for unit, size in (("B", 1.0), ("M", 1e-3), ("k", 1e-6)):
        if billions >= size:
            return f"{billions / size:.3g}{unit}"
    return f"{billions * 1e9:.0f}"
