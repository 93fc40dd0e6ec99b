"""The few figures: CoF against the size ratio, accuracy against the call ratio, as byte-stable SVG.

Shape legend: P points of a series.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from fsgen.typed import Complaint

# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is too light for a line
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P")
INK, GREY, BAND = "#222222", "#767676", "#F3F1E7"
DASHES = (0, (4, 3))
ENDS = {"never": (INK, ""), "always": (INK, "")}
REFERENCES = {"random": (GREY, DASHES), "perfect": (INK, ":")} | ENDS
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


def cof(scaling: Mapping, path_svg: Path) -> None:
    """CoF against size ratio, a panel a dataset and a colour a method, from `scaling_table`.

    Thin lines are the log-ratio law, dashed where too few models identify it. Raises Complaint
    where there is no point to draw.
    """
    with mpl.rc_context(STYLE):
        _write(draw_cof(scaling), Path(path_svg))


def frontier(metrics: Mapping, path_svg: Path) -> None:
    """Accuracy against call ratio, a panel a pair, from what metrics/<dataset>.json holds.

    A colour a router, a marker a method; the budgets of one policy are joined. Of more than nine
    pairs, nine spread over the size ratios are drawn. Raises Complaint where there is no policy.
    """
    with mpl.rc_context(STYLE):
        _write(draw_frontier(metrics), Path(path_svg))


def _write(figure: Figure, path_svg: Path) -> None:
    path_svg.parent.mkdir(parents=True, exist_ok=True)
    part = path_svg.with_name(path_svg.name + ".part")
    figure.savefig(part, format="svg", metadata={"Date": None})
    part.replace(path_svg)


def _panels(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of at most `columns`, sharing their scales."""
    columns = min(count, columns)
    rows = -(-count // columns)
    width = max(1.0 + 2.6 * columns, 6.4)  # the key needs its room
    figure = Figure(figsize=(width, 1.4 + 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for spare in axes[count:]:
        spare.remove()
    for lowest in axes[max(count - columns, 0) : count]:
        lowest.tick_params(labelbottom=True)
    return figure, list(axes[:count])


def _key(figure: Figure, signs: list[Line2D | Patch], columns: int) -> None:
    figure.legend(handles=signs, loc="outside upper center", ncols=columns, columnspacing=1.6)


def _sign(label: str, colour: str, marker: str = "", line: str | tuple = "") -> Line2D:
    return Line2D([], [], color=colour, marker=marker, markersize=4.5, linestyle=line, label=label)


def _draw_points(ax: Axes, x_P, y_P, low_P, high_P, *, colour: str, **look) -> None:
    """Points with white rims over paler intervals."""
    ax.errorbar(
        x_P,
        y_P,
        yerr=[y_P - low_P, high_P - y_P],
        color=colour,
        ecolor=to_rgba(colour, 0.55),
        elinewidth=0.9,
        linewidth=1,
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        zorder=3,
        **look,
    )


# ---- CoF against the size ratio ---------------------------------------------------------------


def draw_cof(scaling: Mapping) -> Figure:
    """The figure of `cof`, in the style that is set."""
    drawn = {d: {m: s for m, s in table.items() if s["points"]} for d, table in scaling.items()}
    drawn = {dataset: table for dataset, table in sorted(drawn.items()) if table}
    if not drawn:
        raise Complaint(
            "The figure of CoF needs at least one pair with a CoF, got none; name a pair under "
            "'pairs' of params.yaml and rerun 'evaluate' and 'scaling'."
        )
    methods = sorted({method for table in drawn.values() for method in table})
    figure, axes = _panels(len(drawn), columns=4)
    for ax, (dataset, table) in zip(axes, drawn.items(), strict=True):
        ax.set_title(dataset)
        ax.axhspan(0, CLAIM, color=BAND, zorder=0)
        for place, method in enumerate(methods):
            if method in table:
                _draw_series(ax, table[method], place, len(methods))
    every = [series for table in drawn.values() for series in table.values()]
    _scale_cof(axes[0], [point for series in every for point in series["points"]])
    figure.supxlabel("Size ratio, large / small (non-embedding parameters, log scale)", fontsize=9)
    figure.supylabel("CoF: mismatches, % of answer tokens", fontsize=9)
    _key(figure, _cof_signs(methods, every), columns=3 if len(axes) < 3 else 6)
    return figure


def _draw_series(ax: Axes, series: Mapping, place: int, methods: int) -> None:
    """Points with their intervals, methods set side by side, and the law beneath them."""
    columns = _columns(series["points"])
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    aside = 3.5 * (place - (methods - 1) / 2) / 72  # inches on paper; the data stay where they are
    moved = ax.transData + ScaledTranslation(aside, 0, ax.figure.dpi_scale_trans)
    _draw_points(ax, *columns, colour=colour, fmt=marker, transform=moved)
    params = series["laws"]["log_ratio"]["params"]
    if params:
        ends = np.array([columns[0].min(), columns[0].max()])
        law = 100 * (params["c0"] + params["c1"] * np.log10(ends))
        line = "-" if series["identified"] else DASHES
        ax.plot(ends, law, color=colour, linewidth=0.9, linestyle=line, zorder=2)


def _columns(points: list[Mapping]) -> tuple[np.ndarray, ...]:
    """Ratios, and CoF with its interval in percent, [P] each."""
    ratio_P = np.array([point["large"] / point["small"] for point in points])
    return ratio_P, *(100 * np.array([p[key] for p in points]) for key in ("cof", "low", "high"))


def _scale_cof(ax: Axes, points: list[Mapping]) -> None:
    ratio_P, _, _, high_P = _columns(points)
    is_narrow = ratio_P.max() < 30 * ratio_P.min()
    ax.set_xscale("log")
    ax.set_xlim(ratio_P.min() / 1.4, ratio_P.max() * 1.4)
    ax.set_ylim(0, max(1.06 * high_P.max(), 1.25 * CLAIM))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1, 3)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _cof_signs(methods: list[str], every: list[Mapping]) -> list[Line2D | Patch]:
    """A sign for each method, for the kinds of line that occur, and for the band."""
    signs: list[Line2D | Patch] = [
        _sign(method, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, method in enumerate(methods)
    ]
    fitted = {series["identified"] for series in every if series["laws"]["log_ratio"]["params"]}
    if True in fitted:
        signs.append(_sign("linear in log ratio", GREY, line="-"))
    if False in fitted:
        signs.append(_sign("linear in log ratio, not identified", GREY, line=DASHES))
    return [*signs, Patch(color=BAND, label=f"claimed: below {CLAIM:.0f} %")]


# ---- accuracy against the call ratio ----------------------------------------------------------


class Run(NamedTuple):
    """One policy's point."""

    router: str
    method: str
    call_ratio: float
    accuracy: float
    low: float
    high: float


def draw_frontier(metrics: Mapping) -> Figure:
    """The figure of `frontier`, in the style that is set."""
    runs = {name: _runs(pair["policies"]) for name, pair in metrics["pairs"].items()}
    names = sorted((name for name in runs if runs[name]), key=lambda n: (_size_ratio(metrics, n), n))
    if not names:
        raise Complaint(
            "The figure of accuracy needs at least one policy with a call ratio, got none; name "
            "one under 'policies' of params.yaml and rerun 'rollout' and 'evaluate'."
        )
    shown = _spread(names)
    every = [run for name in shown for run in runs[name]]
    looks = _looks({run.router for run in every})
    methods = sorted({run.method for run in every})
    figure, axes = _panels(len(shown), columns=3)
    for ax, name in zip(axes, shown, strict=True):
        ax.set_title(name)
        _draw_alone(ax, metrics, name)
        for router, method in sorted({(run.router, run.method) for run in runs[name]}):
            joined = [run for run in runs[name] if (run.router, run.method) == (router, method)]
            _draw_runs(ax, joined, looks[router], MARKERS[methods.index(method) % len(MARKERS)])
    axes[0].set_xlim(-0.03, 1.03)
    for axis in (axes[0].xaxis, axes[0].yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
    left_out = f"; {len(shown)} of {len(names)} pairs" if len(shown) < len(names) else ""
    figure.supxlabel(f"Call ratio: answer tokens with a call, %{left_out}", fontsize=9)
    figure.supylabel("Accuracy on test prompts, %", fontsize=9)
    _key(figure, _frontier_signs(looks, methods), columns=4 if len(axes) < 3 else 5)
    return figure


def _runs(policies: Mapping) -> list[Run]:
    """Points in order of their call ratio; one without, drafting say, has no place here."""
    found = []
    for name, policy in policies.items():
        method, _, router = name.partition("@")[0].partition("+")
        numbers = [policy.get(key) for key in Run._fields[2:]]
        if None not in numbers:
            found.append(Run(router or "drafting", method, *numbers))
    return sorted(found, key=lambda run: (run.call_ratio, run))


def _size_ratio(metrics: Mapping, name: str) -> float:
    small, large = (metrics["models"][metrics["pairs"][name][role]] for role in ("small", "large"))
    return large["parameters"] / small["parameters"]


def _spread(names: list[str]) -> list[str]:
    """At most nine of them, evenly from first to last."""
    places = np.linspace(0, len(names) - 1, min(len(names), MOST_PANELS)).round().astype(int)
    return [names[place] for place in places]


def _looks(routers: set[str]) -> dict[str, tuple]:
    """Colour and line of each router; references, which no one would run, come last and in grey."""
    scored = sorted(routers - set(REFERENCES))
    looks = {router: (COLOURS[i % len(COLOURS)], "-") for i, router in enumerate(scored)}
    return looks | {router: look for router, look in REFERENCES.items() if router in routers}


def _draw_alone(ax: Axes, metrics: Mapping, name: str) -> None:
    """What each model reaches alone, with its interval."""
    for role in ("large", "small"):
        model = metrics["models"][metrics["pairs"][name][role]]
        ax.axhspan(model["low"], model["high"], color=BAND, linewidth=0, zorder=0)
        ax.axhline(model["accuracy"], color=GREY, linewidth=0.8, zorder=1)
        beside = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "color": GREY}
        ax.annotate(f"{role} alone", (0.75, model["accuracy"]), fontsize=7.5, **beside)


def _draw_runs(ax: Axes, runs: list[Run], look: tuple, marker: str) -> None:
    colour, line = look
    columns = np.array([run[2:] for run in runs]).T
    _draw_points(ax, *columns, colour=colour, marker=marker, linestyle=line)


def _frontier_signs(looks: Mapping[str, tuple], methods: list[str]) -> list[Line2D]:
    """Routers by colour and line, methods by marker; call ratios of 0 and 1 share a sign."""
    signs = [_sign(name, colour, line=line) for name, (colour, line) in looks.items() if line]
    ends = [name for name in ENDS if name in looks]
    signs += [_sign(", ".join(ends), INK, "o")] if ends else []
    return signs + [_sign(name, GREY, MARKERS[i % len(MARKERS)]) for i, name in enumerate(methods)]
