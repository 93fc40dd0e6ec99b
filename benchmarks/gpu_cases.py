"""The cases of gpu.py: what is run, against what, and which figures are kept of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import gpu_worlds
import numpy as np
import one_thread  # noqa: F401 - before torch
import torch
import worlds
from gpu_clock import (
    PeakMemory,
    alternate,
    counting_passes,
    device_work,
    host_synchronizations,
    seconds_of,
    waiting_share,
)
from gpu_worlds import PAIR, Scale

from fsgen.cli import cost_estimates, stage_work
from fsgen.collaboration import fuse, route
from fsgen.config.schema import Settings
from fsgen.decoding import dump_solo, dump_teacher_forced, greedy, teacher_forcing
from fsgen.decoding.protocol import TextToRead
from fsgen.decoding.rollout import rollout
from fsgen.decoding.texts import StopRule
from fsgen.execution import console
from fsgen.models.loaded_model import LoadedModel
from fsgen.tables import parquet, paths

SAMPLED_TOKENS = 16  # of the run whose synchronisations are counted


class Bench(NamedTuple):
    """What every case needs."""

    scale: Scale
    device: str
    settings: Settings
    models: dict[str, LoadedModel]
    bandwidth: float
    """Bytes a second, as a copy has them."""
    product_rate: float
    """Floating-point operations a second, as a product of matrices has them."""


# --- calls of fsgen: all that depends on the signatures of its loops stands here


def write_greedily(
    bench: Bench, model: LoadedModel, prompts: dict[str, list[int]], rows: int, new_tokens: int
) -> list[list[int]]:
    """Texts of the prompts, by fsgen's loop, which also makes a record of every token."""
    rule = StopRule(tokenizer=model.tokenizer, stop_ids=model.stop_ids, stops=(), max_new_tokens=new_tokens)
    dump, limit = bench.settings.dump, bench.settings.compute.max_batch_tokens
    written = greedy.generate_greedy(model, dump, limit, prompts, rule, rows, console.TokenCounter())
    return [text.ids for text in written.texts]


def read_texts(bench: Bench, model: LoadedModel, texts: list[TextToRead]) -> None:
    """Make records of the model at all positions of the texts."""
    dump, limit = bench.settings.dump, bench.settings.compute.max_batch_tokens
    teacher_forcing.teacher_force({"large": model}, dump, texts, limit)


def pair_stages(settings: Settings, pair: str) -> dict[str, Callable[[], None]]:
    """The stages of a pair, in their order."""
    members = settings.pairs[pair].roles()
    return {
        **{
            f"dump_solo {role}": lambda n=name: dump_solo.dump_solo(settings, n)
            for role, name in members.items()
        },
        "dump_large": lambda: dump_teacher_forced.dump_large(settings, pair),
        "dump_small": lambda: dump_teacher_forced.dump_small(settings, pair),
        "fuse": lambda: fuse.fuse_pair(settings, pair),
        "route": lambda: route.route_pair(settings, pair),
        "rollout": lambda: rollout.rollout(settings, pair),
    }


# --- writing


def write_case(bench: Bench, name: str, rows: int, uneven: bool = False) -> dict:
    """Writing alone with records, against `generate` with a dynamic cache, eagerly, and the bandwidth.

    `uneven`: one id in `stop_every` ends a text, so that texts end at different places.
    """
    model, scale = bench.models[name], bench.scale
    if uneven:
        model = replace(model, stop_ids=tuple(range(0, model.vocabulary, scale.stop_every)))
    prompts = gpu_worlds.ragged_prompts(scale, rows * (4 if uneven else 1))
    sides = {
        "fsgen": lambda: write_greedily(bench, model, prompts, rows, scale.new_tokens),
        "generate_dynamic": lambda: generate(model, prompts, rows, scale.new_tokens),
    }
    memory = PeakMemory(bench.device)
    with counting_passes(bench.models) as passes:
        texts = sides["fsgen"]()
        counted = passes()[name]._asdict()
    grown = memory.grown()
    sides["generate_dynamic"]()
    timed = alternate(sides, scale.repetitions, bench.device)
    busy = {side: device_work(work, bench.device) for side, work in sides.items()}
    limit_s = limit_seconds(bench, model, prompts, texts, rows)
    short = min(SAMPLED_TOKENS, scale.new_tokens)
    syncs = host_synchronizations(lambda: write_greedily(bench, model, prompts, rows, short), bench.device)
    tokens = sum(map(len, texts))
    ours = timed["fsgen"].median
    return {
        **_sizes(bench, name, prompts, texts, rows),
        "seconds": {side: run.seconds for side, run in timed.items()},
        "tokens_per_second": {side: tokens / run.median for side, run in timed.items()},
        "ratio_to_generate_dynamic": timed["generate_dynamic"].median / ours,
        "bandwidth_limit_seconds": limit_s,
        "share_of_bandwidth_limit": limit_s / ours,
        "waiting_share": {side: waiting_share(busy[side], timed[side].median) for side in sides},
        "device": busy,
        "host_synchronizations_of_sampled_tokens": {"tokens": short, "synchronizations": syncs},
        **counted,
        "equal_texts": _count_equal(timed["fsgen"].result, timed["generate_dynamic"].result),
        **_memory(bench, model, grown, rows * (max(map(len, prompts.values())) + scale.new_tokens)),
    }


def static_case(bench: Bench, name: str, rows: int, dynamic: dict | None) -> dict:
    """`generate` with a static cache, which transformers compiles on CUDA, beside the case `dynamic`."""
    model, scale = bench.models[name], bench.scale
    prompts = gpu_worlds.ragged_prompts(scale, rows)

    def write() -> list[list[int]]:
        return generate(model, prompts, rows, scale.new_tokens, cache_implementation="static")

    first, _ = seconds_of(write, bench.device)
    timed = alternate({"generate_static": write}, scale.repetitions, bench.device)["generate_static"]
    ours = (dynamic or {}).get("seconds", {}).get("fsgen")  # none where that case failed or was skipped
    return {
        "model": name,
        "rows": rows,
        "first_run_seconds": first,
        "seconds": {"generate_static": timed.seconds},
        "tokens_per_second": {"generate_static": sum(map(len, timed.result)) / timed.median},
        "ratio_of_fsgen": timed.median / float(np.median(ours)) if ours else None,
        "waiting_share": {"generate_static": waiting_share(device_work(write, bench.device), timed.median)},
    }


def generate(
    model: LoadedModel, prompts: dict[str, list[int]], rows: int, new_tokens: int, **how
) -> list[list[int]]:
    """What `generate` writes after every prompt, `rows` at a time, padded on the left."""
    texts: list[list[int]] = []
    given = [*prompts.values()]
    for start in range(0, len(given), rows):
        texts += _generate_batch(model, given[start : start + rows], new_tokens, how)
    return texts


@torch.inference_mode()
def _generate_batch(
    model: LoadedModel, prompts: list[list[int]], new_tokens: int, how: dict
) -> list[list[int]]:
    width, stops = max(map(len, prompts)), [*model.stop_ids]
    ids_BL = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=model.device)
    mask_BL = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    written = model.network.generate(
        input_ids=ids_BL,
        attention_mask=mask_BL,
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=stops,
        pad_token_id=stops[0],
        **how,
    )[:, width:].tolist()
    ends = set(stops)
    return [row[: next((i + 1 for i, t in enumerate(row) if t in ends), new_tokens)] for row in written]


def limit_seconds(
    bench: Bench, model: LoadedModel, prompts: dict[str, list[int]], texts: list[list[int]], rows: int
) -> float:
    """Seconds in which memory delivers what the steps must read: weights once a step, each text's cache."""
    lengths = [(len(prompt), len(text)) for prompt, text in zip(prompts.values(), texts, strict=True)]
    steps = max(-(-sum(n for _, n in lengths) // rows), max(n for _, n in lengths))
    cached_tokens = sum(n * p + n * (n + 1) // 2 for p, n in lengths)
    size = bench.scale.dtype.itemsize
    read = steps * step_parameters(model) * size + cached_tokens * cached_values(model) * size
    return read / bench.bandwidth


def step_parameters(model: LoadedModel) -> int:
    """Parameters that a step reads: all but the input embedding."""
    config = model.network.config
    return model.parameters - config.vocab_size * config.hidden_size


def cached_values(model: LoadedModel) -> int:
    """Keys and values that a token leaves in the cache."""
    config = model.network.config
    width = config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width


def _count_equal(ours: list[list[int]], theirs: list[list[int]]) -> dict:
    """How many texts are equal, and the share of their tokens before the first that differs."""
    pairs = [*zip(ours, theirs, strict=True)]
    same = [
        next((i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), min(len(x), len(y)))
        for x, y in pairs
    ]
    return {
        "texts": sum(x == y for x, y in pairs),
        "share_of_tokens_before_a_difference": sum(same) / sum(map(len, ours)),
    }


def _sizes(bench: Bench, name: str, prompts: dict, texts: list[list[int]], rows: int) -> dict:
    return {
        "model": name,
        "parameters": bench.models[name].parameters,
        "rows": rows,
        "texts": len(texts),
        "prompt_tokens": sum(map(len, prompts.values())),
        "tokens": sum(map(len, texts)),
        "shortest": min(map(len, texts)),
        "longest": max(map(len, texts)),
    }


def _memory(bench: Bench, model: LoadedModel, grown: int | None, cached_tokens: int) -> dict:
    """Peak bytes with the model's own weights, and those of weights and a full cache."""
    size = bench.scale.dtype.itemsize
    weights = model.parameters * size
    return {
        "peak_bytes": None if grown is None else weights + grown,
        "estimated_bytes": weights + cached_tokens * cached_values(model) * size,
    }


# --- reading


def read_case(bench: Bench, name: str) -> dict:
    """Reading with records, against the bare forward pass with its full head over the same texts."""
    model, scale = bench.models[name], bench.scale
    texts = _texts_to_read(bench, model)
    batches = _batches(bench, texts)
    sides = {
        "fsgen": lambda: read_texts(bench, model, texts),
        "forward": lambda: _forward(model, batches),
    }
    memory = PeakMemory(bench.device)
    with counting_passes(bench.models) as passes:
        sides["fsgen"]()
        counted = passes()[name]
    grown = memory.grown()
    sides["forward"]()
    timed = alternate(sides, scale.repetitions, bench.device)
    busy = {side: device_work(work, bench.device) for side, work in sides.items()}
    positions = sum(text.length for text in texts)
    limit_s = 2 * step_parameters(model) * positions / bench.product_rate
    return {
        "model": name,
        "parameters": model.parameters,
        "texts": len(texts),
        "tokens": sum(len(text.ids) for text in texts),
        "read_positions": positions,
        "passes": counted.passes,
        "positions": counted.positions,
        "seconds": {side: run.seconds for side, run in timed.items()},
        "positions_per_second": {side: positions / run.median for side, run in timed.items()},
        "ratio_to_forward": timed["forward"].median / timed["fsgen"].median,
        "arithmetic_limit_seconds": limit_s,
        "share_of_arithmetic_limit": limit_s / timed["fsgen"].median,
        "waiting_share": {side: waiting_share(busy[side], timed[side].median) for side in sides},
        "device": busy,
        **_memory(bench, model, grown, 0),
    }


def _texts_to_read(bench: Bench, model: LoadedModel) -> list[TextToRead]:
    """Texts of random ids, each after a prompt of its own, with lists of random ids to gather at."""
    scale, chance = bench.scale, np.random.default_rng(11)
    width = min(bench.settings.dump.max_top_k, model.vocabulary)
    outcome = []
    for prompt in gpu_worlds.ragged_prompts(scale, scale.read_texts).values():
        count = int(chance.integers(scale.read_new_tokens // 2, scale.read_new_tokens + 1))
        ids = chance.integers(0, model.vocabulary, count).tolist()
        at_ids_LK = chance.integers(0, model.vocabulary, (count, width)).astype(np.int32)
        outcome.append(TextToRead(prompt, ids, at_ids_LK, ("large",)))
    return outcome


def _batches(bench: Bench, texts: list[TextToRead]) -> list[torch.Tensor]:
    """Texts of like length together, padded on the right, at most `compute.max_batch_tokens` a batch."""
    batches: list[list[list[int]]] = []
    for ids in sorted(((text.prompt + text.ids)[:-1] for text in texts), key=len):
        if not batches or (len(batches[-1]) + 1) * len(ids) > bench.settings.compute.max_batch_tokens:
            batches.append([])
        batches[-1].append(ids)
    return [
        torch.tensor([ids + [0] * (len(rows[-1]) - len(ids)) for ids in rows], device=bench.device)
        for rows in batches
    ]


@torch.inference_mode()
def _forward(model: LoadedModel, batches: list[torch.Tensor]) -> None:
    """The bare forward pass, logits thrown away."""
    for ids_BL in batches:
        model.network(input_ids=ids_BL, use_cache=False)


# --- rollout


def rollout_case(bench: Bench) -> dict:
    """All stages of a pair from `dump_solo` to `rollout`, whose tree is looked at closely."""
    settings = bench.settings
    stages, seconds = pair_stages(settings, PAIR), {}
    with counting_passes(bench.models) as passes:
        for name, stage in stages.items():
            before = passes()
            memory = PeakMemory(bench.device)
            seconds[name], _ = seconds_of(stage, bench.device)
        counted = {name: _since(before.get(name), now) for name, now in passes().items()}
    grown = memory.grown()
    rollout_rows = parquet.read(
        paths.rollouts(PAIR, "toy") / "tokens-*.parquet", ["policy", "prompt_id", "called"]
    )
    steps = parquet.read(paths.rollouts(PAIR, "toy") / "steps-*.parquet")
    worlds.forget(str(paths.rollouts(PAIR)))
    busy = device_work(stages["rollout"], bench.device)
    members = settings.pairs[PAIR].roles()
    positions = steps.group_by("role").sum().to_dicts()
    real = {members[row["role"]]: row["shared_steps"] + row["shared_prompt_steps"] for row in positions}
    spent = seconds["rollout"]
    return {
        "budgets": len(gpu_worlds.BUDGETS),
        "policies": rollout_rows["policy"].n_unique(),
        "texts": rollout_rows.select("policy", "prompt_id").n_unique(),
        "tokens": len(rollout_rows),
        "called_share": float(rollout_rows["called"].mean()),
        "rows": settings.compute.batch_size,
        "stage_seconds": seconds,
        "tokens_per_second": len(rollout_rows) / spent,
        "positions_per_second": sum(real.values()) / spent,
        "passes": {name: now["passes"] for name, now in counted.items()},
        "positions": {name: now["positions"] for name, now in counted.items()},
        "real_positions": real,
        "padding_share": {name: 1 - real[name] / now["positions"] for name, now in counted.items()},
        "steps": positions,
        "waiting_share": waiting_share(busy, spent),
        "device": busy,
        **_rollout_memory(bench, grown),
        "estimated_stage_seconds": _estimated_seconds(bench),
    }


def _since(before: tuple | None, now: tuple) -> dict[str, int]:
    """Passes and positions of the last stage alone."""
    first = before or (0, 0)
    return {"passes": now[0] - first[0], "positions": now[1] - first[1]}


def _rollout_memory(bench: Bench, grown: int | None) -> dict:
    """Peak bytes of the rollout with both models' weights, and what `fsgen check` states."""
    names = bench.settings.pairs[PAIR].roles().values()
    weights = sum(bench.models[name].parameters for name in names) * bench.scale.dtype.itemsize
    sizes = cost_estimates.model_sizes(bench.settings.models)
    estimated = cost_estimates.rollout_memory(bench.settings, PAIR, sizes, cost_estimates.MACHINES["h100"])
    return {"peak_bytes": None if grown is None else weights + grown, "estimated_bytes": estimated}


def _estimated_seconds(bench: Bench) -> dict[str, float]:
    """What `fsgen check --on h100` states for every stage and model."""
    sizes = cost_estimates.model_sizes(bench.settings.models)
    machine = cost_estimates.MACHINES["h100"]
    return {
        f"{work.stage} {work.model}": cost_estimates.stage_seconds(
            work, bench.settings.dtype_of(work.model), sizes[work.model], machine
        )
        for work in stage_work.list_work(bench.settings)
    }
