"""Time of a step of each model of a pair on this machine, and the resulting speed-up of drafting.

Its numbers describe a machine, not a model, so no stage writes them.
"""

import os
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from fsgen.analysis.comparison import drafting
from fsgen.analysis.intervals import Interval
from fsgen.cli.cost_estimates import Machine
from fsgen.config.policies import Method
from fsgen.config.schema import Settings
from fsgen.errors import UserError
from fsgen.models import loading, spec
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.models.loaded_model import LoadedModel
from fsgen.tables import parquet, paths

STEPS = 12  # of each kind on each text; the median of all counts
MATRIX_SHAPES = (64, 4096), (4096, 4096)
COPIED_FLOATS = 1 << 26
REPETITIONS = 5


def measure_machine() -> Machine:
    """What this host does, in about a second: float32 products of matrices, copies; best of five each."""
    left, right = (torch.ones(shape) for shape in MATRIX_SHAPES)
    product = _best_time(lambda: left @ right)
    copy = _best_time(torch.ones(COPIED_FLOATS).clone)
    (rows, inner), (_, columns) = MATRIX_SHAPES
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(2 * rows * inner * columns / product, 2 * 4 * COPIED_FLOATS / copy, memory, is_card=False)


def _best_time(work: Callable) -> float:
    """Seconds that the work takes, the best of REPETITIONS."""
    return min(_time(work) for _ in range(REPETITIONS))


def _time(work: Callable) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


class StepTimes(NamedTuple):
    """Medians at batch 1, seconds."""

    small: float
    """A step of the small model: one token, with its cache, and the token that follows."""
    large: float
    """A step of the large model."""
    verification: dict[int, float]
    """K to a pass of the large model over K + 1 tokens."""


class _StepKind(NamedTuple):
    """A kind of step that is timed: so many tokens through one model."""

    name: str | int
    loaded: LoadedModel
    tokens: int


def measure(settings: Settings, pair: str, dataset: str, prompts: int) -> StepTimes:
    """Time both models along the large one's texts on the first test prompts, kinds of step in turn."""
    members = settings.pair(pair).roles()
    max_new_tokens = settings.dataset(dataset).max_new_tokens
    small, large = (loading.load_model(settings, members[role]) for role in ("small", "large"))
    rows = _test_prompts(dataset).sort("order").head(prompts)
    texts = _texts(members["large"], dataset)
    kinds = [_StepKind("small", small, 1), _StepKind("large", large, 1)]
    kinds += [_StepKind(k, large, k + 1) for k in drafting.TIMED]
    seconds: dict[str | int, list[float]] = {kind.name: [] for kind in kinds}
    for name, ids in zip(rows["prompt_id"], spec.prompt_ids(large, rows, max_new_tokens), strict=True):
        _time_along(kinds, ids, texts[name], settings.compute.max_batch_tokens, seconds)
    medians = {kind: median(values) for kind, values in seconds.items()}
    return StepTimes(medians.pop("small"), medians.pop("large"), medians)


def _test_prompts(dataset: str) -> pl.DataFrame:
    """The test prompts of a dataset."""
    return parquet.read(paths.prompts(dataset)).filter(split="test")


def _texts(model: str, dataset: str) -> dict[str, list[int]]:
    """Prompt to the token ids that the model wrote."""
    tokens = parquet.read(paths.dumps(model, dataset) / "tokens-*.parquet").sort("prompt_id", "pos")
    return dict(tokens.group_by("prompt_id").agg("token_id").iter_rows())


def _time_along(
    kinds: list[_StepKind], prompt: list[int], text: list[int], budget: int, seconds: dict
) -> None:
    """Append the seconds of steps of every kind after one prompt.

    Tokens come from the prompt's text; each step is undone once it is timed. `budget` is the padded tokens
    that a pass of the cache may take.
    """
    caches = {id(kind.loaded): RaggedKVCache(kind.loaded, budget) for kind in kinds}
    for cache in caches.values():
        cache.prefill([prompt])
    for step in range(STEPS):
        for kind in kinds:
            cache = caches[id(kind.loaded)]
            tokens = np.take(text, range(step, step + kind.tokens), mode="wrap").tolist()
            start = perf_counter()
            int(kind.loaded.logits(cache.append([tokens])).argmax(-1)[-1])  # waits for the device too
            seconds[kind.name].append(perf_counter() - start)
            cache.reorder(np.array([0]), np.array([len(prompt)]))


def speed_ups(settings: Settings, pair: str, dataset: str, times: StepTimes) -> dict[int, Interval]:
    """K to the expected speed-up of greedy drafting at these times, from the dumped mismatches."""
    rows = _drafting_rows(settings.methods_of(pair), pair, dataset)
    return {
        k: drafting.speed_up(
            drafting.draft_along(rows, k),
            times.small / times.large,
            verification=seconds / times.large,
            seed=settings.seed,
        )
        for k, seconds in times.verification.items()
    }


def _drafting_rows(methods: Mapping[str, Method], pair: str, dataset: str) -> pl.DataFrame:
    """Fused tokens of a drafting method along the large model's answers to test prompts, in order."""
    drafting = [name for name, method in methods.items() if method.definition.drafts]
    if not drafting:
        raise UserError(
            "methods names no speculative one to draft with; add 'speculative: {rule: speculative}'."
        )
    rows = parquet.scan(paths.fused(pair, dataset) / "fused-*.parquet")
    rows = rows.filter("in_answer", method=drafting[0], writer="large").collect()
    prompts = _test_prompts(dataset).select("prompt_id")
    return rows.join(prompts, on="prompt_id").sort("prompt_id", "pos")


def report_lines(settings: Settings, pair: str, dataset: str, prompts: int) -> list[str]:
    """The times and what they mean for drafting, a sentence a line."""
    times = measure(settings, pair, dataset, prompts)
    lines = [
        f"{pair}, batch 1, medians: a step of the small model takes {1e3 * times.small:.2f} ms, of "
        f"the large one {1e3 * times.large:.2f} ms; cost ratio {times.small / times.large:.3f}."
    ]
    for k, gain in speed_ups(settings, pair, dataset, times).items():
        lines.append(
            f"K = {k}: verifying takes {times.verification[k] / times.large:.2f} steps of the large model; "
            f"expected speed-up {gain.value:.2f} ({gain.low:.2f} to {gain.high:.2f}, 95 % over "
            f"the test prompts of {dataset}, the pace taken as known)."
        )
    return lines
