"""Token strips: what the large model wrote, the small one's entropy there, and its most likely tokens."""

from typing import NamedTuple

import polars as pl
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from fsgen.report.figures import style
from fsgen.report.figures.style import COLOURS, GREY, INK

MOST_PROMPTS = 2
LINE_LENGTH = 92  # characters of a line of text
LINE_HEIGHT = 0.30  # inches
BARS_HEIGHT = 1.75
MOST_BARS = 6  # mismatches whose top tokens are shown
DARKEST = 0.75  # of the colour map, so that letters stay readable
MONOSPACE = "DejaVu Sans Mono"


class _Token(NamedTuple):
    """A token of a line of text."""

    text: str
    offset: int
    """Characters before it on its line."""
    entropy: float
    is_mismatch: bool


def token_strips(frame: pl.DataFrame) -> Figure:
    """Each prompt's text, tokens shaded by the small model's entropy, mismatches framed; below, its top ten.

    A row of `frame` is a token of the large model's text: pair, prompt_id, pos, piece, entropy,
    mismatch, and `pieces` and `probabilities`, the small model's ten most likely tokens there.
    """
    style.require_rows(frame, "token_strips")
    prompts = frame["prompt_id"].unique(maintain_order=True).to_list()[:MOST_PROMPTS]
    texts = [frame.filter(prompt_id=name).sort("pos") for name in prompts]
    lines = [_break_lines(text) for text in texts]
    heights = [height for text in lines for height in (LINE_HEIGHT * len(text) + 0.35, BARS_HEIGHT)]
    figure = Figure(figsize=(9.6, sum(heights) + 0.7), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel()
    scale = Normalize(0, max(float(frame["entropy"].max()), 1e-9))
    for index, (name, text) in enumerate(zip(prompts, texts, strict=True)):
        title = f"{text['pair'][0]}, {name}: what the large model wrote"
        _draw_text(parts[2 * index], lines[index], scale, title)
        mismatches = text.filter("mismatch").sort("entropy", descending=True)
        _draw_bars(parts[2 * index + 1], mismatches.head(MOST_BARS))
    return figure


def _make_visible(piece: str | None) -> str:
    """A token with visible spaces and line breaks; an empty-set sign for one without text."""
    return (piece or "").replace("\n", "\u21b5").replace(" ", "\u00b7").replace("$", r"\$") or "\u2205"


def _break_lines(text: pl.DataFrame) -> list[list[_Token]]:
    """Tokens by lines of at most LINE_LENGTH characters."""
    lines: list[list[_Token]] = [[]]
    used = 0
    for piece, entropy, is_mismatch in text.select("piece", "entropy", "mismatch").iter_rows():
        visible = _make_visible(piece)
        length = len(visible) + 1
        if used + length > LINE_LENGTH:
            lines.append([])
            used = 0
        lines[-1].append(_Token(visible, used, entropy or 0, bool(is_mismatch)))
        used += length
    return lines


def _draw_text(part: SubFigure, lines: list[list[_Token]], scale: Normalize, title: str) -> None:
    """Draw the lines of a text with a colour bar of entropy."""
    ax = part.subplots()
    colours = colormaps["Blues"]
    for y, line in enumerate(lines):
        for token in line:
            shade = DARKEST * scale(token.entropy)
            frame = (
                {"edgecolor": COLOURS[1], "linewidth": 1.6} if token.is_mismatch else {"edgecolor": "none"}
            )
            box = {"boxstyle": "square,pad=0.12", "facecolor": colours(shade), **frame}
            font = {"family": MONOSPACE, "fontsize": 7, "color": "white" if shade > 0.55 else INK}
            ax.text(token.offset, y, token.text, va="center", bbox=box, **font)
    ax.set(xlim=(-1, LINE_LENGTH + 1), ylim=(len(lines) - 0.4, -0.7))
    ax.axis("off")
    ax.set_title(f"{title} (framed: the small model predicts another token)", fontsize=8.5)
    mappable = ScalarMappable(Normalize(0, scale.vmax / DARKEST), colours)
    bar = part.colorbar(mappable, ax=ax, pad=0.01, aspect=8)
    bar.ax.set_ylim(0, scale.vmax)
    bar.set_label("entropy,\nnats", fontsize=7)
    bar.ax.tick_params(labelsize=6.5)


def _draw_bars(part: SubFigure, rows: pl.DataFrame) -> None:
    """Draw the small model's ten most likely tokens at these mismatches, a panel for each."""
    axes = part.subplots(1, MOST_BARS, sharex=True)
    for ax, row in zip(axes, rows.iter_rows(named=True), strict=False):
        names = [_make_visible(piece) for piece in row["pieces"]]
        colours = [COLOURS[1] if piece == row["piece"] else GREY for piece in row["pieces"]]
        ax.barh(range(len(names)), [100 * probability for probability in row["probabilities"]], color=colours)
        ax.set_yticks(range(len(names)), names, fontsize=6.5, family=MONOSPACE)
        ax.invert_yaxis()
        ax.tick_params(axis="x", labelsize=6.5)
        ax.set_title(f"position {row['pos']}", fontsize=7.5, fontweight="normal")
    for ax in axes[len(rows) :]:
        ax.axis("off")
    part.supxlabel("small model's probability, % (coloured: the large model's token)", fontsize=7.5)
