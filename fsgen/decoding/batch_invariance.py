"""How far a model's text depends on its batch: prompts written one by one against side by side.

In float32 a text should not depend on it. In bfloat16 it does at near ties, and the report says where first
and by how little.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.config.schema import Settings
from fsgen.decoding.engines import generator_of
from fsgen.decoding.protocol import GeneratedTexts
from fsgen.decoding.texts import stop_rule
from fsgen.execution import console
from fsgen.models.loading import load_model
from fsgen.models.spec import prompt_ids
from fsgen.tables import parquet, paths


class Divergence(NamedTuple):
    """Where a prompt's two texts first differ."""

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
    loaded = load_model(settings, name)
    max_new_tokens = settings.dataset(dataset).max_new_tokens
    prompts = parquet.read(paths.prompts(dataset)).head(count)
    ids = prompt_ids(loaded, prompts, max_new_tokens)
    ids_of = dict(zip(prompts["prompt_id"], ids, strict=True))
    rule = stop_rule(loaded, prompts, max_new_tokens)
    generate = generator_of(loaded, settings.dump, settings.compute.max_batch_tokens)
    alone, together = (generate(ids_of, rule, size, console.TokenCounter()) for size in (1, count))
    return _compare(prompts["prompt_id"], alone, together)


def _compare(prompt_ids: pl.Series, alone: GeneratedTexts, together: GeneratedTexts) -> Comparison:
    shared, largest_shift, divergences = 0, 0.0, []
    starts = zip(_first_rows(alone), _first_rows(together), strict=True)
    for prompt_id, one, other, (i, j) in zip(prompt_ids, alone.texts, together.texts, starts, strict=True):
        pos = _first_difference(one.ids, other.ids)
        shared += pos
        shifts = alone.records.max_logit_N[i : i + pos] - together.records.max_logit_N[j : j + pos]
        largest_shift = max(largest_shift, float(np.abs(shifts).max(initial=0)))
        if pos < min(len(one.ids), len(other.ids)):
            first, second = alone.records.top_logits_NK[i + pos, :2]
            divergences.append(
                Divergence(prompt_id, pos, one.ids[pos], other.ids[pos], float(first - second))
            )
    tokens = sum(len(text.ids) for text in alone.texts)
    return Comparison(tokens, shared, largest_shift, divergences)


def _first_rows(generated: GeneratedTexts) -> list[int]:
    """The row of each text's first record."""
    lengths = np.array([len(text.ids) for text in generated.texts])
    return (lengths.cumsum() - lengths).tolist()


def _first_difference(one: list[int], other: list[int]) -> int:
    """The first position at which the tokens differ; the shorter length if there is none."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((pos for pos, (a, b) in pairs if a != b), min(len(one), len(other)))


def report_lines(settings: Settings, name: str, dataset: str, count: int) -> list[str]:
    """The comparison as sentences, the first divergence first."""
    result = compare(settings, name, dataset, count)
    lines = [
        f"{name} wrote {result.tokens} tokens of {count} prompts of {dataset} alone. "
        f"Side by side {result.shared} of them come before any difference; "
        f"their top logits moved by at most {result.largest_shift:.2g}."
    ]
    for divergence in sorted(result.divergences, key=lambda divergence: divergence.pos):
        lines.append(
            f"{divergence.prompt_id} parts at position {divergence.pos}: token {divergence.alone_id} alone, "
            f"{divergence.together_id} together, where the margin was {divergence.margin:.3g} nats."
        )
    return lines
