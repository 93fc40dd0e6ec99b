"""What a step of each model of a pair costs on this machine, and the speed-up of drafting that follows.

The one room with a clock: its numbers are of a machine, not of a model, so no stage writes them.
"""

import os
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch

from fsgen.analysis.comparison import drafting
from fsgen.analysis.intervals import Interval
from fsgen.cli.cost_estimates import Machine
from fsgen.config.schema import Settings
from fsgen.errors import UserError
from fsgen.models import loading, spec
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.tables import parquet, paths

STEPS = 12  # of each kind on each text; the median of all counts


def measure_machine() -> Machine:
    """What this host does, in about a second: float32 products of matrices, copies; best of five each."""
    a, b = torch.ones(64, 4096), torch.ones(4096, 4096)
    product = min(_timed(lambda: a @ b) for _ in range(5))
    block = torch.ones(1 << 26)
    copy = min(_timed(block.clone) for _ in range(5))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(2 * 64 * 4096 * 4096 / product, 2 * 4 * block.numel() / copy, memory, is_card=False)


def _timed(work: Callable) -> float:
    begin = perf_counter()
    work()
    return perf_counter() - begin


class StepTimes(NamedTuple):
    """Medians at batch 1, seconds."""

    small: float
    """A step of the small model: one token, with its cache, and the token that it says next."""
    large: float
    """A step of the large model."""
    verification: dict[int, float]
    """K to a pass of the large model over K + 1 tokens."""


def measure(settings: Settings, pair: str, dataset: str, prompts: int) -> StepTimes:
    """Time both models along the large one's texts on the first test prompts, kinds of step in turn."""
    members = settings.named("pairs", pair).members()
    settings.named("datasets", dataset)
    small, large = (loading.load_model(settings, members[role]) for role in ("small", "large"))
    asked = parquet.read(paths.prompts(dataset)).filter(split="test").sort("order").head(prompts)
    ids = spec.prompt_ids(large, asked, settings.datasets[dataset].max_new_tokens)
    texts = parquet.read(paths.dumps(members["large"], dataset) / "tokens-*.parquet").sort("prompt_id", "pos")
    written = dict(texts.group_by("prompt_id").agg("token_id").iter_rows())
    taken: dict = {kind: [] for kind in ("small", "large", *drafting.TIMED)}
    for name, prompt in zip(asked["prompt_id"], ids, strict=True):
        _time_along(settings, small, large, prompt, written[name], taken)
    medians = {kind: median(seconds) for kind, seconds in taken.items()}
    return StepTimes(medians.pop("small"), medians.pop("large"), medians)


def _time_along(settings: Settings, small, large, prompt: list[int], text: list[int], taken: dict) -> None:
    """Steps of every kind after one prompt, with tokens of its text, each undone once it is timed."""
    kinds = {"small": (small, 1), "large": (large, 1), **{k: (large, k + 1) for k in drafting.TIMED}}
    cursors = {id(loaded): RaggedKVCache(loaded, settings.compute.read_tokens) for loaded in (small, large)}
    for own in cursors.values():
        own.enter([prompt])
    for step in range(STEPS):
        for kind, (loaded, width) in kinds.items():
            own, fed = cursors[id(loaded)], np.take(text, range(step, step + width), mode="wrap").tolist()
            begin = perf_counter()
            int(loaded.logits(own.extend([fed])).argmax(-1)[-1])  # waits for the device too
            taken[kind].append(perf_counter() - begin)
            own.select(np.array([0]), np.array([len(prompt)]))


def speed_ups(settings: Settings, pair: str, dataset: str, pace: StepTimes) -> dict[int, Interval]:
    """K to the expected speed-up of greedy drafting at this pace, from the dumped mismatches."""
    names = [name for name, method in settings.methods_of(pair).items() if method.rule == "speculative"]
    if not names:
        raise UserError(
            "methods names no speculative one to draft with; add 'speculative: {rule: speculative}'."
        )
    prompts = parquet.read(paths.prompts(dataset)).filter(split="test").select("prompt_id")
    rows = parquet.scan(paths.fused(pair, dataset) / "fused-*.parquet")
    rows = rows.filter("in_answer", method=names[0], writer="large").collect()
    rows = rows.join(prompts, on="prompt_id").sort("prompt_id", "pos")
    return {
        k: drafting.speed_up(
            drafting.draft_along(rows, k),
            pace.small / pace.large,
            verification=seconds / pace.large,
            seed=settings.seed,
        )
        for k, seconds in pace.verification.items()
    }


def report_lines(settings: Settings, pair: str, dataset: str, prompts: int) -> list[str]:
    """The pace and what it means for drafting, a sentence a line."""
    found = measure(settings, pair, dataset, prompts)
    lines = [
        f"{pair}, batch 1, medians: a step of the small model takes {1e3 * found.small:.2f} ms, of "
        f"the large one {1e3 * found.large:.2f} ms; cost ratio {found.small / found.large:.3f}."
    ]
    for k, gain in speed_ups(settings, pair, dataset, found).items():
        lines.append(
            f"K = {k}: verifying takes {found.verification[k] / found.large:.2f} steps of the large model; "
            f"expected speed-up {gain.value:.2f} ({gain.low:.2f} to {gain.high:.2f}, 95 % over "
            f"the test prompts of {dataset}, the pace taken as known)."
        )
    return lines
