"""Benchmarks: a dataset's rows become prompts in a seeded order, split into calibration and test."""

import hashlib
import json
from types import ModuleType

import polars as pl
import pyarrow as pa

from fsgen.config.schema import DatasetConfig, Settings
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.tables import parquet, paths
from fsgen.tables.schemas.tasks import PROMPTS
from fsgen.tasks.protocol import Prompt
from fsgen.tasks.registry import TASKS


def build_prompts(name: str, dataset: DatasetConfig, seed: int) -> pl.DataFrame:
    """The prompts table (PROMPTS) of the dataset `name`, sorted by order.

    The order is by a hash of seed and prompt, so a raised `limit` only appends; the split is by a
    hash of the prompt alone, so it is fixed for ever. Raises Complaint where two rows share a
    prompt_id or one of the splits would be empty.
    """
    task = TASKS[dataset.task]
    prompts = task.prompts(dataset)
    _check_ids(name, prompts)
    prompts.sort(key=lambda prompt: _hash(f"{seed}:{prompt.prompt_id}"))
    table = [
        _row(task, prompt) | {"order": i, "split": split_of(prompt.prompt_id, dataset.calibration)}
        for i, prompt in enumerate(prompts[: dataset.limit])
    ]
    _check_splits(name, table)
    return pl.from_arrow(pa.Table.from_pylist(table, schema=PROMPTS))


def split_of(prompt_id: str, calibration: float) -> str:
    """`calibration` for about that share of all prompts, `test` for the others, whatever the seed."""
    return "calibration" if _hash(f"split:{prompt_id}") < calibration * 2**64 else "test"


def _row(task: ModuleType, prompt: Prompt) -> dict:
    return {
        "prompt_id": prompt.prompt_id,
        "messages": prompt.messages,
        "plain": prompt.plain,
        "follow_ups": [follow_up._asdict() for follow_up in prompt.follow_ups],
        "stops": list(task.STOPS),
        "stop_tokens": list(task.STOP_TOKENS),
        "answer": task.ANSWER,
        "gold": json.dumps(prompt.gold, sort_keys=True),
    }


def _hash(text: str) -> int:
    """Uniform over 64 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _check_ids(name: str, prompts: list[Prompt]) -> None:
    seen: set[str] = set()
    for prompt_id, *_ in prompts:
        if prompt_id in seen:
            raise UserError(
                f"datasets.{name} should give every row its own prompt_id, got '{prompt_id}' twice; "
                "mend the task's prompts()."
            )
        seen.add(prompt_id)


def _check_splits(name: str, table: list[dict]) -> None:
    tests = sum(row["split"] == "test" for row in table)
    if not 0 < tests < len(table):
        raise UserError(
            f"datasets.{name} should give prompts for both splits, got {tests} for test and "
            f"{len(table) - tests} for calibration; raise its limit or change its calibration share."
        )


def write_prompts(settings: Settings, name: str) -> None:
    """Write data/prompts/<name>.parquet."""
    path = paths.prompts(name)
    prompts = build_prompts(name, settings.dataset(name), settings.seed)
    parquet.write(path, prompts, PROMPTS)
    tests = int((prompts["split"] == "test").sum())
    console.done(f"{path}: {tests} test and {len(prompts) - tests} calibration prompts")
