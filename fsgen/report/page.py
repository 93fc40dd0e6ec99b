"""plots/report.html: one self-contained page with a run's summary, figures and token explorer."""

import base64
import gzip
import json
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from fsgen.report import summary
from fsgen.report.figures import gallery

ASSETS = Path(__file__).parent / "assets"
LIMIT = 5_000_000  # bytes of a page that a phone still opens at once


class SavedFigure(NamedTuple):
    """A figure of the gallery that was drawn."""

    name: str
    dataset: str | None
    """None for a figure of all datasets."""
    svg: Path


def build(metrics: dict[str, dict], figures: list[SavedFigure], explored: dict) -> str:
    """The page as HTML, the same for the same content.

    `metrics` are contents of metrics files by dataset, `explored` is what `explorer.explore` returned. Its
    prompts are removed, last ones first, until the page is smaller than LIMIT; the page says how many it
    shows.
    """
    template = Template((ASSETS / "page.html").read_text())
    fixed = {
        "style": (ASSETS / "page.css").read_text(),
        "script": (ASSETS / "explorer.js").read_text(),
        "summaries": "\n".join(_summary(dataset, content) for dataset, content in metrics.items()),
        "figures": "\n".join(_figure(figure) for figure in figures),
    }
    while True:
        data = json.dumps(explored, separators=(",", ":"), ensure_ascii=False)
        page = template.substitute(fixed, explorer=_pack(data), shown=_shown_prompts(explored))
        if len(page.encode()) < LIMIT or not _remove_prompt(explored):
            return page


def _remove_prompt(explored: dict) -> bool:
    """Remove the last prompt of the dataset that shows most; False where each shows one."""
    largest = max(explored["datasets"].values(), key=lambda entry: len(entry["prompts"]), default=None)
    if largest is None or len(largest["prompts"]) < 2:
        return False
    name = largest["prompts"].pop()["id"]
    for pair in largest["pairs"].values():
        pair["texts"].pop(name, None)
    return True


def _shown_prompts(explored: dict) -> str:
    counts = [f"{len(entry['prompts'])} test prompts of {n}" for n, entry in explored["datasets"].items()]
    return escape(", ".join(counts))


def _summary(dataset: str, content: dict) -> str:
    """A dataset's summary table and sentences."""
    head, rows = summary.table(content)
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(_table_row(row) for row in rows)
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in summary.sentences(content))
    return (
        f"<h3>{escape(dataset)}</h3><p>{escape(summary.CAPTION)}</p>"
        f'<div class="wide" tabindex="0" role="region" aria-label="summary of {escape(dataset)}">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
        + (f"<ul>{items}</ul>" if items else "")
    )


def _table_row(row: list[str]) -> str:
    """A table row whose first cell is its head."""
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
    return f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>'


def _figure(figure: SavedFigure) -> str:
    """A figure with its caption; explorer.js unpacks its image."""
    about = gallery.FIGURES[figure.name].about
    title = f"{about} ({figure.dataset})" if figure.dataset else about
    anchor = "-".join(filter(None, (figure.name, figure.dataset)))
    return (
        f'<figure id="figure-{escape(anchor)}">'
        f'<img alt="{escape(title)}" data-packed="{_pack(figure.svg.read_text())}">'
        f"<figcaption>{escape(title[0].upper() + title[1:])}. "
        f"Drawn from <code>queries/figures/{figure.name}.sql</code>.</figcaption></figure>"
    )


def _pack(text: str) -> str:
    """The text in gzip and base64, which the page unpacks; no time stamp, so the bytes depend on it alone."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
