"""The gallery: every figure by name, drawn from its query's result and saved as the same bytes each time."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import polars as pl
from matplotlib.figure import Figure

from fsgen.errors import UserError
from fsgen.report.figures import drafting, frontiers, off_policy, scaling, token_strips, uncertainty
from fsgen.report.figures.style import STYLE

QUERIES = Path("queries/figures")


class Entry(NamedTuple):
    """A figure: how it is drawn, of what, under which caption."""

    draw: Callable[[pl.DataFrame], Figure]
    by_dataset: bool
    """Whether there is one for each dataset, else one for all."""
    about: str
    """Its caption."""


FIGURES = {
    "published": Entry(scaling.published, False, "FS-GEN's own table: two laws, and how well laws predict"),
    "cof": Entry(scaling.cof, False, "collaboration frequency against the size ratio of our pairs"),
    "surface": Entry(scaling.surface, False, "collaboration frequency over both sizes"),
    "frontier": Entry(frontiers.frontier, True, "accuracy that calls of the large model buy"),
    "costs": Entry(frontiers.costs, True, "accuracy against what the calls cost"),
    "router_comparisons": Entry(
        frontiers.router_comparisons, True, "probability that one router beats another at equal call ratio"
    ),
    "budgets": Entry(frontiers.budgets, True, "calls made against calls aimed at"),
    "off_policy": Entry(
        off_policy.off_policy, True, "off-policy estimates against rollouts, and survival on dumped text"
    ),
    "reconvergence": Entry(off_policy.reconvergence, True, "what follows an unrouted mismatch"),
    "separation": Entry(uncertainty.separation, True, "how well uncertainty tells mismatches from matches"),
    "position_heatmap": Entry(uncertainty.positions, True, "where in an answer mismatches lie"),
    "odds_ratios": Entry(uncertainty.odds_ratios, True, "what position adds once entropy is known"),
    "projections": Entry(
        uncertainty.project_tokens, True, "tokens projected to the plane by their top probabilities"
    ),
    "token_strips": Entry(token_strips.token_strips, True, "two answers token by token"),
    "speculative": Entry(drafting.speculative, True, "drafting: accepted lengths, acceptance, speed-up"),
}
FORMATS = {"svg": {"Date": None}, "png": {"Software": None}}  # with metadata that must not be written


def query(name: str) -> str:
    """The SQL that feeds a figure; raises UserError where its file is not in the project's folder."""
    file = QUERIES / f"{name}.sql"
    if not file.is_file():
        raise UserError(f"There is no query at {file}; run from the project's folder.")
    return file.read_text()


def draw(name: str, frame: pl.DataFrame) -> Figure:
    """The figure of this result, in the common style; raises UserError where there is nothing to draw."""
    with mpl.rc_context(STYLE):
        return FIGURES[name].draw(frame)


def save(name: str, frame: pl.DataFrame, stem: Path) -> None:
    """Write `stem`.svg and `stem`.png, each whole or not at all, the same bytes for the same rows."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = FIGURES[name].draw(frame)
        for kind, metadata in FORMATS.items():
            part = stem.with_name(f"{stem.name}.{kind}.part")
            figure.savefig(part, format=kind, dpi=110, metadata=metadata)
            part.replace(stem.with_name(f"{stem.name}.{kind}"))
