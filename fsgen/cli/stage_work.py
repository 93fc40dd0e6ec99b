"""Passes, positions and rows of every stage that runs models, counted from a params file before it runs.

Texts are taken to run to `max_new_tokens`, so counts are upper bounds. Prompt lengths are assumed.
A position is one token that goes through one model, a pass is one forward call.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fsgen.collaboration.read_plan import read_plan
from fsgen.config.policies import Policy
from fsgen.config.roles import LARGE
from fsgen.config.schema import DatasetConfig, Settings
from fsgen.tables import parquet, paths

ASSUMED_PROMPT_TOKENS = 100  # of a prompt of a task that does not state its own
EXAMPLE_TOKENS = 150  # of a worked example
# Steps of a prefix tree over steps of one run per policy: 21 policies of a real pair on GSM8K. 33 policies on
# five benchmarks took 0.37 (results/qwen-coder), the embedded default takes 0.13.
TREE_STEP_SHARE = 0.43


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
class DatasetVolume:
    """How much of a dataset there is to read and write."""

    prompts: int
    """0 where nobody knows."""
    test_prompts: int
    prompt_tokens: int
    text_tokens: int
    """Of all turns together."""


def dataset_volumes(datasets: Mapping[str, DatasetConfig]) -> list[DatasetVolume]:
    """The volume of every dataset."""
    return [_volume(name, entry) for name, entry in datasets.items()]


def _volume(name: str, entry: DatasetConfig) -> DatasetVolume:
    task = entry.definition
    prompts = count_prompts(name, entry) or 0
    return DatasetVolume(
        prompts=prompts,
        test_prompts=math.ceil(prompts * (1 - entry.calibration_share)),
        prompt_tokens=(task.prompt_tokens or ASSUMED_PROMPT_TOKENS) + EXAMPLE_TOKENS * entry.shots,
        text_tokens=task.turns * entry.max_new_tokens,
    )


def count_prompts(name: str, entry: DatasetConfig) -> int | None:
    """Prompts by the limit, else the task's figure, else the stored table; None without any of them."""
    if entry.limit or entry.definition.test_prompts:
        return entry.limit or entry.definition.test_prompts
    table = paths.prompts(name)
    return len(parquet.read(table, ["prompt_id"])) if table.is_file() else None


def list_work(settings: Settings) -> list[StageWork]:
    """The work of every stage that runs models, in the pipeline's order."""
    volumes = dataset_volumes(settings.datasets)
    batch = min(settings.compute.batch_size, settings.dump.prompts_per_shard)
    work = [_count_solo(name, batch, volumes) for name in settings.models]
    for pair in settings.pairs:
        work += _count_reading(settings, pair, volumes)
        work += _count_rollout(settings, pair, volumes)
        work += _count_rollout_logits(settings, pair, volumes)
    return work


def _count_solo(model: str, batch: int, volumes: list[DatasetVolume]) -> StageWork:
    """`dump_solo`: the texts of a batch, which is never larger than a shard, take a step a token."""
    steps = sum(math.ceil(v.prompts / batch) * v.text_tokens for v in volumes)
    positions = sum(v.prompts * (v.prompt_tokens + v.text_tokens) for v in volumes)
    rows = sum(v.prompts * v.text_tokens for v in volumes)
    return StageWork("dump_solo", model, model, steps, positions, rows)


def _count_reading(settings: Settings, pair: str, volumes: list[DatasetVolume]) -> list[StageWork]:
    """`dump_large` and `dump_small`: every reader sees a prompt once and each of its texts."""
    plan = read_plan(settings.methods_of(pair))
    work = []
    for role, model in settings.pair(pair).roles().items():
        stage = "dump_large" if role == LARGE else "dump_small"
        texts = sum(role in readers and (role, writer) != (LARGE, LARGE) for writer, readers in plan.items())
        if not texts:  # no rule compares this model's logits
            continue
        positions = sum(v.prompts * (v.prompt_tokens + texts * v.text_tokens) for v in volumes)
        rows = sum(v.prompts * texts * v.text_tokens for v in volumes)
        passes = _count_passes(positions, settings.compute.max_batch_tokens)
        work.append(StageWork(stage, pair, model, passes, positions, rows))
    return sorted(work, key=lambda reader: reader.stage)


def _count_rollout(settings: Settings, pair: str, volumes: list[DatasetVolume]) -> list[StageWork]:
    """`rollout`: a text a test prompt and policy, where policies share the steps of equal prefixes."""
    policies = _count_policies(settings.policies_of(pair))
    text_positions = sum(v.test_prompts * policies * v.text_tokens for v in volumes)
    tree_positions = TREE_STEP_SHARE * text_positions
    positions = sum(v.test_prompts * v.prompt_tokens for v in volumes) + math.ceil(tree_positions)
    steps = math.ceil(tree_positions / settings.compute.batch_size)
    members = settings.pairs[pair].roles()
    rows = {members["large"]: text_positions}  # one table for all models
    return [
        StageWork("rollout", pair, model, steps, positions, rows.get(model, 0)) for model in members.values()
    ]


def _count_rollout_logits(settings: Settings, pair: str, volumes: list[DatasetVolume]) -> list[StageWork]:
    """`dump_rollouts`: all models read the policies' texts on the prompts that the report shows."""
    policies, shown = _count_policies(settings.policies_of(pair)), settings.report.explorer_prompts
    rows = sum(min(shown, v.test_prompts) * policies * v.text_tokens for v in volumes)
    positions = rows + sum(min(shown, v.test_prompts) * v.prompt_tokens for v in volumes)
    passes = _count_passes(positions, settings.compute.max_batch_tokens)
    models = settings.pairs[pair].roles().values()
    return [StageWork("dump_rollouts", pair, model, passes, positions, rows) for model in models]


def _count_policies(policies: Iterable[Policy]) -> int:
    """Policies of a pair that write texts of their own; drafting ones write the large model's."""
    return sum(policy.draft is None for policy in policies)


def _count_passes(positions: int, max_batch_tokens: int) -> int:
    """Passes that read so many positions in full batches."""
    return math.ceil(positions / max_batch_tokens)
