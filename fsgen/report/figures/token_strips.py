"""Token strips: what the large model wrote, how unsure the small one was, and what it would have said."""

import polars as pl
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from fsgen.report.figures import style
from fsgen.report.figures.style import COLOURS, GREY, INK

WIDTH = 92  # characters of a line of text
BARS = 6  # mismatches whose top tokens are shown
LINE = 0.30  # inches


def token_strips(frame: pl.DataFrame) -> Figure:
    """Each prompt's text, tokens shaded by the small model's entropy, mismatches framed; below, its top ten.

    A row of `frame` is a token of the large model's text: pair, prompt_id, pos, piece, entropy,
    mismatch, and `pieces` and `chances`, the small model's ten likeliest tokens there.
    """
    style.some(frame, "token_strips")
    prompts = frame["prompt_id"].unique(maintain_order=True).to_list()[:2]
    texts = [frame.filter(prompt_id=name).sort("pos") for name in prompts]
    lines = [_lines(text) for text in texts]
    heights = [h for own in lines for h in (LINE * len(own) + 0.35, 1.75)]
    figure = Figure(figsize=(9.6, sum(heights) + 0.7), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel()
    tone = Normalize(0, max(float(frame["entropy"].max()), 1e-9))
    for place, (name, text) in enumerate(zip(prompts, texts, strict=True)):
        _draw_text(
            parts[2 * place], lines[place], tone, f"{text['pair'][0]}, {name}: what the large model wrote"
        )
        _draw_bars(parts[2 * place + 1], text.filter("mismatch").sort("entropy", descending=True).head(BARS))
    return figure


def _spelt(piece: str | None) -> str:
    """A token as a reader sees it: blanks at its ends and line breaks made visible."""
    return (piece or "").replace("\n", "\u21b5").replace(" ", "\u00b7").replace("$", r"\$") or "\u2205"


def _lines(text: pl.DataFrame) -> list[list[dict]]:
    """Tokens by lines of at most WIDTH characters."""
    lines, used = [[]], 0
    for row in text.iter_rows(named=True):
        length = len(_spelt(row["piece"])) + 1
        if used + length > WIDTH:
            lines.append([])
            used = 0
        lines[-1].append(row | {"at": used, "length": length})
        used += length
    return lines


def _draw_text(part, lines: list[list[dict]], tone: Normalize, title: str) -> None:
    ax = part.subplots()
    colours = colormaps["Blues"]
    for y, line in enumerate(lines):
        for row in line:
            shade = 0.75 * tone(row["entropy"] or 0)
            edge = {"edgecolor": COLOURS[1], "linewidth": 1.6} if row["mismatch"] else {"edgecolor": "none"}
            box = {"boxstyle": "square,pad=0.12", "facecolor": colours(shade), **edge}
            dark = "white" if shade > 0.55 else INK
            looks = {"family": "DejaVu Sans Mono", "fontsize": 7, "color": dark, "va": "center", "bbox": box}
            ax.text(row["at"], y, _spelt(row["piece"]), **looks)
    ax.set(xlim=(-1, WIDTH + 1), ylim=(len(lines) - 0.4, -0.7))
    ax.axis("off")
    ax.set_title(f"{title} (framed: the small one would have said something else)", fontsize=8.5)
    scale = ScalarMappable(Normalize(0, tone.vmax / 0.75), colours)
    bar = part.colorbar(scale, ax=ax, pad=0.01, aspect=8)
    bar.ax.set_ylim(0, tone.vmax)
    bar.set_label("entropy,\nnats", fontsize=7)
    bar.ax.tick_params(labelsize=6.5)


def _draw_bars(part, rows: pl.DataFrame) -> None:
    """The small model's ten likeliest tokens at its most doubtful mismatches."""
    axes = part.subplots(1, BARS, sharex=True)
    for ax, row in zip(axes, rows.iter_rows(named=True), strict=False):
        names = [_spelt(piece) for piece in row["pieces"]]
        chosen = [COLOURS[1] if piece == row["piece"] else GREY for piece in row["pieces"]]
        ax.barh(range(len(names)), [100 * chance for chance in row["chances"]], color=chosen)
        ax.set_yticks(range(len(names)), names, fontsize=6.5, family="DejaVu Sans Mono")
        ax.invert_yaxis()
        ax.tick_params(axis="x", labelsize=6.5)
        ax.set_title(f"position {row['pos']}", fontsize=7.5, fontweight="normal")
    for ax in axes[len(rows) :]:
        ax.axis("off")
    part.supxlabel("small model's probability, % (coloured: the large model's token)", fontsize=7.5)
