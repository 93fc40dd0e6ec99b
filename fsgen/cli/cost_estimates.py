"""Estimated cost of a params file before it runs: work, disk, memory and, roughly, time."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fsgen.cli.stage_work import (
    ASSUMED_PROMPT_TOKENS,
    TREE_STEP_SHARE,
    StageWork,
    count_prompts,
    dataset_volumes,
    list_work,
)
from fsgen.config.schema import DatasetConfig, ModelConfig, Settings
from fsgen.models import checkpoints, description
from fsgen.tables import paths

# Bytes of Parquet a token and model, at most, by bytes of a weight (benchmarks/README.md)
ROW_BYTES = {2: 80, 4: 160}
HEADROOM = 1.1  # of a card's memory, for what is neither weights nor cache


@dataclass(frozen=True)
class Machine:
    """What one card, or one host, does in a second. Peaks are its maker's, the shares of them are assumed."""

    flops: float
    bandwidth: float
    """Bytes of memory."""
    memory: float
    """Bytes."""
    is_card: bool = True
    """Whether models run in bfloat16 there unless params.yaml says otherwise."""


MACHINES = {  # NVIDIA's data sheets, dense bfloat16: 40 % of the arithmetic, 60 % of the bandwidth
    "h100": Machine(0.4 * 989e12, 0.6 * 3.35e12, 80e9),
    "a100": Machine(0.4 * 312e12, 0.6 * 2.04e12, 80e9),
}


def model_sizes(models: Mapping[str, ModelConfig]) -> dict[str, int | None]:
    """Model to its parameters, by the first there is: description, checkpoint, statement in params.yaml."""
    return {name: _model_size(name, model) for name, model in models.items()}


def _model_size(name: str, model: ModelConfig) -> int | None:
    if paths.model_description(name).is_file():
        return description.read_description(name)["parameters"]["total"]
    if _is_local(model):
        return checkpoints.count_parameters(name, model)["total"]
    return None if model.parameter_count is None else int(model.parameter_count)


def _is_local(model: ModelConfig) -> bool:
    """Whether the checkpoint can be looked into without asking the hub."""
    return model.hub is None and checkpoints.is_available(model)


def weight_bytes(dtype: str, machine: Machine | None) -> int:
    """Bytes of one weight in a precision of params.yaml: `auto`, `float32` or `bfloat16`."""
    if dtype == "auto":
        return 2 if machine and machine.is_card else 4
    return 4 if dtype == "float32" else 2


def cached_values(name: str, model: ModelConfig, parameters: float) -> float:
    """Keys and values of a token: as a local checkpoint says, else the most there can be."""
    return checkpoints.count_cached(name, model) if _is_local(model) else most_cached_values(parameters)


def most_cached_values(parameters: float) -> float:
    """Keys and values of a token where P = 12 L d^2 parameters have d = 128 L and all heads apart.

    Grouped-query models keep a fraction of that.
    """
    layers = (parameters / (12 * 128**2)) ** (1 / 3)
    return 2 * layers * 128 * layers


def rollout_memory(settings: Settings, pair: str, sizes: dict[str, int], machine: Machine | None) -> float:
    """Bytes that a pair's rollout holds, at most: all weights, and caches of `compute.batch_size` texts."""
    longest = max(volume.prompt_tokens + volume.text_tokens for volume in dataset_volumes(settings.datasets))
    total = 0.0
    for name in settings.pairs[pair].roles().values():
        cached = (
            settings.compute.batch_size * longest * cached_values(name, settings.models[name], sizes[name])
        )
        total += (sizes[name] + cached) * weight_bytes(settings.dtype_of(name), machine)
    return total


def stage_seconds(work: StageWork, dtype: str, parameters: int, machine: Machine) -> float:
    """A roofline: 2 FLOPs a parameter and position, or weights read once a pass, whichever is longer."""
    bytes_read = work.passes * parameters * weight_bytes(dtype, machine)
    return max(2 * parameters * work.positions / machine.flops, bytes_read / machine.bandwidth)


def report_lines(settings: Settings, machine: Machine | None = None) -> list[str]:
    """Lines for a person: every stage's work, disk and memory; hours on a machine, if sizes are known."""
    sizes = {name: size for name, size in model_sizes(settings.models).items() if size}
    work = list_work(settings)
    return [
        *_work_table(settings, work, sizes, machine),
        _disk_line(settings, work, machine),
        *_memory_line(settings, sizes, machine),
        *_unknown_sizes_line(settings.models, sizes),
        *_assumptions(settings.datasets),
        *warn_of_swapped_pairs({name: pair.roles() for name, pair in settings.pairs.items()}, sizes),
        "At most, if every text runs to max_new_tokens; prompt lengths are assumed; a rollout is taken to "
        f"share prefixes as a real pair's did ({TREE_STEP_SHARE:.0%} of one run per policy). `dvc status` "
        "says what a change will rerun.",
    ]


def _work_table(
    settings: Settings, work: list[StageWork], sizes: dict[str, int], machine: Machine | None
) -> list[str]:
    """A head, a line a stage, and a line for all; without a machine the hours are left out."""
    groups = {stage: [w for w in work if w.stage == stage] for stage in dict.fromkeys(w.stage for w in work)}
    lines = [f"{'stage':<12}{'passes':>14}{'positions':>18}{'hours' if machine else '':>10}"]
    for name, group in (groups | {"all": work}).items():
        passes, positions = sum(w.passes for w in group), sum(w.positions for w in group)
        hours = _hours(settings, group, sizes, machine) if machine else ""
        lines.append(f"{name:<12}{passes:>14,}{positions:>18,}{hours:>10}")
    return lines


def _hours(settings: Settings, work: list[StageWork], sizes: dict[str, int], machine: Machine) -> str:
    """Hours of the work, empty where the size of one of its models is unknown."""
    if any(one.model not in sizes for one in work):
        return ""
    seconds = sum(stage_seconds(one, settings.dtype_of(one.model), sizes[one.model], machine) for one in work)
    return f"{seconds / 3600:.3g}"


def _disk_line(settings: Settings, work: list[StageWork], machine: Machine | None) -> str:
    size = sum(one.rows * ROW_BYTES[weight_bytes(settings.dtype_of(one.model), machine)] for one in work)
    return f"disk: {size / 1e9:.3g} GB of Parquet at most."


def _memory_line(settings: Settings, sizes: dict[str, int], machine: Machine | None) -> list[str]:
    """One line for the pair that needs most, or none where the sizes of no pair are known."""
    memory = {
        name: rollout_memory(settings, name, sizes, machine)
        for name, pair in settings.pairs.items()
        if sizes.keys() >= set(pair.roles().values())
    }
    if not memory:
        return []
    widest = max(memory, key=memory.__getitem__)
    cards = ""
    if machine and machine.is_card:
        cards = f", {math.ceil(HEADROOM * memory[widest] / machine.memory)} of this card"
    return [f"memory: {memory[widest] / 1e9:.3g} GB at most, in the rollout of {widest}{cards}."]


def _unknown_sizes_line(models: Iterable[str], sizes: Mapping[str, int]) -> list[str]:
    """One line that names models without a size, or none."""
    unknown = ", ".join(name for name in models if name not in sizes)
    if not unknown:
        return []
    return [f"sizes unknown: {unknown}; state models.<name>.parameter_count to have memory and time."]


def _assumptions(datasets: Mapping[str, DatasetConfig]) -> list[str]:
    """A line for every dataset whose task has no figures here: what is assumed instead."""
    return [
        f"{name}: the task '{entry.task}' has no figures here, so one turn and {ASSUMED_PROMPT_TOKENS} "
        f"tokens a prompt are assumed; {_explain_count(name, entry)}"
        for name, entry in datasets.items()
        if entry.definition.prompt_tokens is None
    ]


def _explain_count(name: str, entry: DatasetConfig) -> str:
    """How many prompts are counted and where the number comes from, or how to make it known."""
    count = count_prompts(name, entry)
    if count is None:
        return (
            "how many prompts it gives is unknown, so it is counted nowhere; "
            f"set datasets.{name}.limit or run 'dvc repro prompts@{name}'."
        )
    source = "as its limit says" if entry.limit else f"as {paths.prompts(name)} holds"
    return f"{count} prompts are counted, {source}."


def warn_of_swapped_pairs(pairs: Mapping[str, Mapping], sizes: Mapping[str, int]) -> list[str]:
    """A warning for every pair (models by role) whose small model is known to be the larger one."""
    return [
        f"warning: pairs.{name} names '{pair['small']}' small, with {sizes[pair['small']]:,} parameters, and "
        f"'{pair['large']}' large, with {sizes[pair['large']]:,}; swap them unless that is meant."
        for name, pair in pairs.items()
        if sizes.get(pair["small"], 0) > sizes.get(pair["large"], math.inf)
    ]
