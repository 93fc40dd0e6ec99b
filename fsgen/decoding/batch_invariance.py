"""How far a model's text depends on how it is run: one by one against side by side.

In float32 it should not; in bfloat16 it does at near ties, and this says where first and by how little.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.config.schema import Settings
from fsgen.decoding import greedy
from fsgen.decoding.texts import TokenSequence, stop_rule
from fsgen.execution import console
from fsgen.models import loading, spec
from fsgen.models.records import TokenRecords
from fsgen.tables import parquet, paths


class Divergence(NamedTuple):
    """Where a prompt's two texts part."""

    prompt_id: str
    pos: int
    alone_id: int
    together_id: int
    margin: float
    """Top logit less the second at this position, written alone, nats."""


class Comparison(NamedTuple):
    """Texts written one by one and side by side, compared."""

    tokens: int
    """Tokens written one by one."""
    shared: int
    """Those before any divergence."""
    largest_shift: float
    """Largest change of a top logit on shared tokens."""
    divergences: list[Divergence]


def compare(settings: Settings, name: str, dataset: str, count: int) -> Comparison:
    """Write the first `count` prompts of a dataset at batch 1 and at batch `count`."""
    loaded = loading.load_model(settings, name)
    entry = settings.dataset(dataset)
    prompts = parquet.read(paths.prompts(dataset)).sort("order").head(count)
    ids = spec.prompt_ids(loaded, prompts, entry.max_new_tokens)
    until = stop_rule(loaded, prompts, entry.max_new_tokens)
    asked = dict(zip(prompts["prompt_id"], ids, strict=True))
    alone, together = (
        greedy.generate_greedy(loaded, asked, until, settings, rows, console.Count()) for rows in (1, count)
    )
    return _compared(prompts["prompt_id"], *alone, *together)


def _compared(
    names: pl.Series, alone: list[TokenSequence], one: TokenRecords, together: list[TokenSequence], other: TokenRecords
) -> Comparison:
    shared, shift, found = 0, 0.0, []
    starts = [np.cumsum([0, *(len(text.ids) for text in texts)]) for texts in (alone, together)]
    for name, a, b, i, j in zip(names, alone, together, *(s.tolist()[:-1] for s in starts), strict=True):
        length = min(len(a.ids), len(b.ids))
        apart = np.flatnonzero(np.array(a.ids[:length]) != np.array(b.ids[:length]))
        pos = int(apart[0]) if len(apart) else length
        shared += pos
        moved = one.max_logit_N[i : i + pos] - other.max_logit_N[j : j + pos]
        shift = max(shift, float(np.abs(moved).max(initial=0)))
        if len(apart):
            margin = float(one.top_logits_NK[i + pos, 0] - one.top_logits_NK[i + pos, 1])
            found.append(Divergence(name, pos, a.ids[pos], b.ids[pos], margin))
    return Comparison(int(starts[0][-1]), shared, shift, found)


def report_lines(settings: Settings, name: str, dataset: str, count: int) -> list[str]:
    """The comparison as sentences, the first divergence first."""
    found = compare(settings, name, dataset, count)
    lines = [
        f"{name} wrote {found.tokens} tokens of {count} prompts of {dataset} alone. "
        f"Side by side {found.shared} of them come before any difference; "
        f"their top logits moved by at most {found.largest_shift:.2g}."
    ]
    for there in sorted(found.divergences, key=lambda there: there.pos):
        lines.append(
            f"{there.prompt_id} parts at position {there.pos}: token {there.alone_id} alone, "
            f"{there.together_id} together, where the margin was {there.margin:.3g} nats."
        )
    return lines
