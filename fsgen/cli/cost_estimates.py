"""What a params file will cost before anybody runs it: passes, positions, disk, memory and, roughly, time.

Counts are those of texts that all run to `max_new_tokens`, so they are bounds but for prompt lengths, which
are assumed. A position is one token that goes through one model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fsgen.config.schema import DatasetConfig, ModelConfig, Settings
from fsgen.models import checkpoints, description
from fsgen.tables import parquet, paths

# Prompts of a benchmark's test split, for a dataset without limit, and tokens of a zero-shot prompt: means
# of the first 300 in the tokenizer of Qwen2.5, without a chat template; a worked example adds SHOT_TOKENS.
PROMPTS = {
    "gsm8k": 1319,
    "mbpp": 500,
    "mmlu_stem": 3018,
    "math500": 500,
    "bbh": 6511,
    "mtbench": 80,
    "arith": 200,
}
PROMPT_TOKENS = {
    "gsm8k": 66,
    "mbpp": 118,
    "mmlu_stem": 82,
    "math500": 73,
    "bbh": 108,
    "mtbench": 72,
    "arith": 40,
}
UNMEASURED = 100  # tokens taken for a prompt of a task that PROMPT_TOKENS does not name
SHOT_TOKENS = 150
TURNS = {"mtbench": 2}
# of the steps that policies would take one by one, what a tree took: a real pair's 21 policies of GSM8K;
# 33 of five benchmarks took 0.37 (results/qwen-coder), the embedded default takes 0.13
SHARED = 0.43
ROW_BYTES = {2: 80, 4: 160}  # of Parquet a token and model, at most, by bytes a weight (benchmarks/README.md)
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


@dataclass(frozen=True)
class StageWork:
    """What one stage makes one model do."""

    stage: str
    subject: str
    """The model or pair that the stage is for."""
    model: str
    passes: int
    positions: int
    rows: int
    """Rows of tables that it leaves."""


@dataclass(frozen=True)
class _DatasetVolume:
    """One dataset: prompts (none, if nobody knows), those for tests, tokens of a prompt and of a text."""

    prompts: int
    tests: int
    given: int
    text: int

    @classmethod
    def of(cls, name: str, entry: DatasetConfig) -> "_DatasetVolume":
        prompts = _count_prompts(name, entry) or 0
        turns = TURNS.get(entry.task, 1)
        given = PROMPT_TOKENS.get(entry.task, UNMEASURED) + SHOT_TOKENS * entry.shots
        return cls(prompts, math.ceil(prompts * (1 - entry.calibration)), given, turns * entry.max_new_tokens)


def _count_prompts(name: str, entry: DatasetConfig) -> int | None:
    """Prompts by the limit, else the task's figure, else the table at hand; None without any of them."""
    if entry.limit or entry.task in PROMPTS:
        return entry.limit or PROMPTS[entry.task]
    table = _prompts_table(name)
    return len(parquet.read(table, ["prompt_id"])) if table.is_file() else None


def _prompts_table(name: str) -> Path:
    return paths.prompts(name)


def _volumes(settings: Settings) -> list[_DatasetVolume]:
    return [_DatasetVolume.of(name, entry) for name, entry in settings.datasets.items()]


def list_work(settings: Settings) -> list[StageWork]:
    """The work of every stage that runs models, in the pipeline's order."""
    volumes = _volumes(settings)
    found = [_solo(settings, name, volumes) for name in settings.models]
    for pair in settings.pairs:
        found += _reads(settings, pair, volumes) + _rollout(settings, pair, volumes)
    return found


def _solo(settings: Settings, name: str, volumes: list[_DatasetVolume]) -> StageWork:
    together = min(settings.compute.rows, settings.dump.block)  # a shard's texts stand side by side
    steps = sum(math.ceil(v.prompts / together) * v.text for v in volumes)
    positions = sum(v.prompts * (v.given + v.text) for v in volumes)
    return StageWork("dump_solo", name, name, steps, positions, sum(v.prompts * v.text for v in volumes))


def _reads(settings: Settings, pair: str, volumes: list[_DatasetVolume]) -> list[StageWork]:
    """dump_large and dump_small: every reader sees a prompt once and each of its texts."""
    members = settings.pairs[pair].members()
    others = len(members) - 1
    texts = {"large": others, "small": 1 + others, "tuned": 2}
    found = []
    for role, name in members.items():
        positions = sum(v.prompts * (v.given + texts[role] * v.text) for v in volumes)
        rows = sum(v.prompts * texts[role] * v.text for v in volumes)
        stage = "dump_large" if role == "large" else "dump_small"
        found.append(StageWork(stage, pair, name, _passes(settings, positions), positions, rows))
    return sorted(found, key=lambda work: work.stage)


def _rollout(settings: Settings, pair: str, volumes: list[_DatasetVolume]) -> list[StageWork]:
    """The closed loop and the close-ups of its texts, for as many policies as write texts of their own."""
    policies = len([policy for policy in settings.policies_of(pair) if policy.draft is None])
    shown = settings.report.prompts
    found = []
    for name in settings.pairs[pair].members().values():
        alone = sum(v.tests * policies * v.text for v in volumes)
        positions = sum(v.tests * v.given for v in volumes) + math.ceil(SHARED * alone)
        steps = math.ceil(SHARED * alone / settings.compute.rows)
        rows = alone if name == settings.pairs[pair].large else 0  # one table for all models
        found.append(StageWork("rollout", pair, name, steps, positions, rows))
    for name in settings.pairs[pair].members().values():
        rows = sum(min(shown, v.tests) * policies * v.text for v in volumes)
        positions = rows + sum(min(shown, v.tests) * v.given for v in volumes)
        found.append(StageWork("close_up", pair, name, _passes(settings, positions), positions, rows))
    return found


def _passes(settings: Settings, positions: int) -> int:
    return math.ceil(positions / settings.compute.read_tokens)


def sizes(settings: Settings) -> dict[str, int | None]:
    """Model to its parameters, by what is at hand: description, checkpoint, or what params.yaml states."""
    return {name: _size(settings, name, model) for name, model in settings.models.items()}


def _size(settings: Settings, name: str, model: ModelConfig) -> int | None:
    if (description.DESCRIPTIONS / f"{name}.json").is_file():
        return description.read_description(name)["parameters"]["total"]
    if model.hub is None and checkpoints.is_available(model):
        return checkpoints.count_parameters(name, model)["total"]
    return None if model.parameters is None else int(model.parameters)


def weight_bytes(settings: Settings, name: str, on: Machine | None) -> int:
    """Bytes of one of the model's weights, in the precision that params.yaml asks for."""
    dtype = settings.models[name].dtype or settings.compute.dtype
    if dtype == "auto":
        return 2 if on and on.is_card else 4
    return 4 if dtype == "float32" else 2


def cached_values(settings: Settings, name: str, parameters: float) -> float:
    """Keys and values of a token: as the checkpoint at hand says, else the most there can be."""
    model = settings.models[name]
    if model.hub is None and checkpoints.is_available(model):
        return checkpoints.count_cached(name, model)
    return most_cached(parameters)


def most_cached(parameters: float) -> float:
    """Keys and values of a token where P = 12 L d^2 parameters have d = 128 L and all heads apart.

    Grouped-query models keep a fraction of that.
    """
    layers = (parameters / (12 * 128**2)) ** (1 / 3)
    return 2 * layers * 128 * layers


def memory(settings: Settings, pair: str, known: dict[str, int], on: Machine | None) -> float:
    """Bytes that a pair's closed loop holds, at most: all weights, and caches of `compute.rows` texts."""
    longest = max(v.given + v.text for v in _volumes(settings))
    held = 0.0
    for name in settings.pairs[pair].members().values():
        precision = weight_bytes(settings, name, on)
        cached = settings.compute.rows * longest * cached_values(settings, name, known[name])
        held += (known[name] + cached) * precision
    return held


def seconds(settings: Settings, work: StageWork, parameters: int, on: Machine) -> float:
    """A roofline: 2 FLOPs a parameter and position, or weights read once a pass, whichever is longer."""
    moved = work.passes * parameters * weight_bytes(settings, work.model, on)
    return max(2 * parameters * work.positions / on.flops, moved / on.bandwidth)


def report_lines(settings: Settings, on: Machine | None = None) -> list[str]:
    """Lines for a person: every stage's work, disk and memory; hours on a machine, if sizes are known."""
    known = {name: size for name, size in sizes(settings).items() if size}
    work = list_work(settings)
    lines = [f"{'stage':<12}{'passes':>14}{'positions':>18}{'hours' if on else '':>10}"]
    for stage in dict.fromkeys(one.stage for one in work):
        own = [one for one in work if one.stage == stage]
        lines.append(_line(stage, own, settings, known, on))
    lines.append(_line("all", work, settings, known, on))
    lines += [_disk(settings, work, on), *_memory(settings, known, on)]
    unknown = [name for name in settings.models if name not in known]
    if unknown:
        lines.append(
            f"sizes unknown: {', '.join(unknown)}; state models.<name>.parameters to have memory and time."
        )
    members = {name: pair.members() for name, pair in settings.pairs.items()}
    lines += [*_unmeasured(settings), *doubt_sizes(members, known)]
    lines.append(
        "At most, if every text runs to max_new_tokens; prompt lengths are assumed; a rollout is taken to "
        f"share prefixes as a real pair's did ({SHARED:.0%} of one run per policy). `dvc status` says what "
        "a change will rerun."
    )
    return lines


def _unmeasured(settings: Settings) -> list[str]:
    """A sentence for every dataset whose task has no figures here: what is taken in their place."""
    return [
        f"{name}: the task '{entry.task}' has no figures here, so one turn and {UNMEASURED} tokens a prompt "
        f"are assumed; {_tell_prompts(name, entry)}"
        for name, entry in settings.datasets.items()
        if entry.task not in PROMPT_TOKENS
    ]


def _tell_prompts(name: str, entry: DatasetConfig) -> str:
    """How many prompts are counted and who says so, or how to make their number known."""
    count = _count_prompts(name, entry)
    if count is None:
        return (
            "how many prompts it gives is unknown, so it is counted nowhere; "
            f"set datasets.{name}.limit or run 'dvc repro prompts@{name}'."
        )
    source = "as its limit says" if entry.limit else f"as {_prompts_table(name)} holds"
    return f"{count} prompts are counted, {source}."


def doubt_sizes(pairs: Mapping[str, Mapping], known: Mapping[str, int]) -> list[str]:
    """A warning for every pair (members by role) whose small model is known to be the larger one."""
    return [
        f"warning: pairs.{name} names '{pair['small']}' small, with {known[pair['small']]:,} parameters, and "
        f"'{pair['large']}' large, with {known[pair['large']]:,}; swap them unless that is meant."
        for name, pair in pairs.items()
        if known.get(pair["small"], 0) > known.get(pair["large"], math.inf)
    ]


def _line(name: str, work: list[StageWork], settings, known: dict[str, int], on: Machine | None) -> str:
    passes, positions = (sum(getattr(one, key) for one in work) for key in ("passes", "positions"))
    hours = ""
    if on and all(one.model in known for one in work):
        spent = sum(seconds(settings, one, known[one.model], on) for one in work)
        hours = f"{spent / 3600:.3g}"
    return f"{name:<12}{passes:>14,}{positions:>18,}{hours:>10}"


def _disk(settings: Settings, work: list[StageWork], on: Machine | None) -> str:
    size = sum(one.rows * ROW_BYTES[weight_bytes(settings, one.model, on)] for one in work)
    return f"disk: {size / 1e9:.3g} GB of Parquet at most."


def _memory(settings: Settings, known: dict[str, int], on: Machine | None) -> list[str]:
    whole = [p for p, entry in settings.pairs.items() if known.keys() >= set(entry.members().values())]
    if not whole:
        return []
    widest = max(whole, key=lambda pair: memory(settings, pair, known, on))
    held = memory(settings, widest, known, on)
    cards = f", {math.ceil(HEADROOM * held / on.memory)} of this card" if on and on.is_card else ""
    return [f"memory: {held / 1e9:.3g} GB at most, in the closed loop of {widest}{cards}."]
