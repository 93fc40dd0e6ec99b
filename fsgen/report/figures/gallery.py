"""The gallery: every figure by name, drawn from its query's result and saved as the same bytes each time."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import polars as pl
from matplotlib.figure import Figure

from fsgen.report.figures import drafting, frontiers, off_policy, scaling, token_strips, uncertainty
from fsgen.report.figures.style import STYLE

QUERIES = Path(__file__).parents[3] / "queries" / "figures"


class Entry(NamedTuple):
    """A figure: how it is drawn, of what, under which caption."""

    draw: Callable[[pl.DataFrame], Figure]
    by_dataset: bool
    """Whether there is one a dataset, else one for all."""
    about: str
    """Its caption."""


FIGURES = {
    "published": Entry(scaling.published, False, "FS-GEN's own table: two laws, and how well laws predict"),
    "cof": Entry(scaling.cof, False, "collaboration frequency against the size ratio of our pairs"),
    "surface": Entry(scaling.surface, False, "collaboration frequency over both sizes"),
    "frontier": Entry(frontiers.frontier, True, "accuracy that calls of the large model buy"),
    "costs": Entry(frontiers.costs, True, "accuracy against what the calls cost"),
    "duels": Entry(frontiers.duels, True, "probability that one router beats another at equal budget"),
    "budgets": Entry(frontiers.budgets, True, "calls made against calls aimed at"),
    "estimates": Entry(
        off_policy.estimates, True, "what the dumps alone say of a policy, beside its rollout"
    ),
    "reconvergence": Entry(off_policy.reconvergence, True, "what follows a mismatch that nobody routed"),
    "separation": Entry(uncertainty.separation, True, "how well uncertainty tells mismatches from matches"),
    "position_heatmap": Entry(uncertainty.positions, True, "where in an answer mismatches lie"),
    "effects": Entry(uncertainty.effects, True, "what position adds once entropy is known"),
    "embedding": Entry(uncertainty.embedding, True, "tokens in the plane by their top probabilities"),
    "token_strips": Entry(token_strips.token_strips, True, "two answers token by token"),
    "speculative": Entry(drafting.speculative, True, "drafting: accepted lengths, acceptance, speed-up"),
}


def query(name: str) -> str:
    """The SQL that feeds a figure."""
    return (QUERIES / f"{name}.sql").read_text()


def draw(name: str, frame: pl.DataFrame) -> Figure:
    """The figure of this result, in the house's style. Raises Complaint where there is nothing to draw."""
    with mpl.rc_context(STYLE):
        return FIGURES[name].draw(frame)


def save(name: str, frame: pl.DataFrame, place: Path) -> None:
    """Write `place`.svg and `place`.png, each whole or not at all, the same bytes for the same rows."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = FIGURES[name].draw(frame)
        for kind, metadata in {"svg": {"Date": None}, "png": {"Software": None}}.items():
            part = place.with_name(f"{place.name}.{kind}.part")
            figure.savefig(part, format=kind, dpi=110, metadata=metadata)
            part.replace(place.with_name(f"{place.name}.{kind}"))
