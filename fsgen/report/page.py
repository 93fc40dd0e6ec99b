"""plots/report.html: one self-contained page that tells the story of a run, and its token explorer."""

import base64
import gzip
import json
from html import escape
from pathlib import Path
from string import Template

from fsgen.report import headline
from fsgen.report.figures import gallery

ASSETS = Path(__file__).parent / "assets"
LIMIT = 5_000_000  # bytes of a page that a phone still opens at once


def build(numbers: dict[str, dict], figures: list[tuple[str, str | None, Path]], explored: dict) -> str:
    """The page as HTML, the same for the same content.

    `numbers` maps datasets to what their metrics files hold, `figures` are names in the gallery with
    their dataset and their SVG file, `explored` is what `explorer.explore` returned. Prompts of the
    explorer are left out, last ones first, until the page is smaller than LIMIT; it says how many.
    """
    template = Template((ASSETS / "page.html").read_text())
    fixed = {
        "style": (ASSETS / "page.css").read_text(),
        "script": (ASSETS / "explorer.js").read_text(),
        "headlines": "\n".join(_headline(dataset, content) for dataset, content in numbers.items()),
        "figures": "\n".join(_figure(*figure) for figure in figures),
    }
    while True:
        told = json.dumps(explored, separators=(",", ":"), ensure_ascii=False)
        page = template.substitute(fixed, explorer=_packed(told), shown=_shown(explored))
        if len(page.encode()) < LIMIT or not _drop_a_prompt(explored):
            return page


def _drop_a_prompt(explored: dict) -> bool:
    """Leave out the last prompt of the dataset that shows most; False where each shows one."""
    largest = max(explored["datasets"].values(), key=lambda entry: len(entry["prompts"]), default=None)
    if largest is None or len(largest["prompts"]) < 2:
        return False
    name = largest["prompts"].pop()["id"]
    for pair in largest["pairs"].values():
        pair["texts"].pop(name, None)
    return True


def _shown(explored: dict) -> str:
    counts = [f"{len(entry['prompts'])} test prompts of {n}" for n, entry in explored["datasets"].items()]
    return escape(", ".join(counts))


def _headline(dataset: str, content: dict) -> str:
    head, rows = headline.table(content)
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(c)}</td>" for c in row[1:])}</tr>'
        for row in rows
    )
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in headline.sentences(content))
    return (
        f"<h3>{escape(dataset)}</h3><p>{escape(headline.CAPTION)}</p>"
        f'<div class="wide" tabindex="0" role="region" aria-label="headline of {escape(dataset)}">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
        + (f"<ul>{told}</ul>" if told else "")
    )


def _figure(name: str, dataset: str | None, file: Path) -> str:
    about = gallery.FIGURES[name].about
    title = f"{about} ({dataset})" if dataset else about
    return (
        f'<figure id="figure-{escape("-".join(filter(None, (name, dataset))))}">'
        f'<img alt="{escape(title)}" data-packed="{_packed(file.read_text())}">'
        f"<figcaption>{escape(title[0].upper() + title[1:])}. "
        f"Drawn from <code>queries/figures/{name}.sql</code>.</figcaption></figure>"
    )


def _packed(text: str) -> str:
    """gzip, then base64, without a clock: the page unpacks it, so that it stays small without a network."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
