"""The `prompts` stage: a dataset's rows become prompts in a seeded order, split into calibration and test."""

import hashlib
import json
from collections import Counter

import polars as pl
import pyarrow as pa

from fsgen.config.schema import DatasetConfig, Settings
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.tables import parquet, paths
from fsgen.tables.schemas.tasks import PROMPTS
from fsgen.tasks.protocol import Prompt, Task


def write_prompts(settings: Settings, name: str) -> None:
    """Write the prompts table of a dataset."""
    path = paths.prompts(name)
    prompts = build_prompts(name, settings.dataset(name), settings.seed)
    parquet.write(path, prompts, PROMPTS)
    tests = int((prompts["split"] == "test").sum())
    console.done(f"{path}: {tests} test and {len(prompts) - tests} calibration prompts")


def build_prompts(name: str, dataset: DatasetConfig, seed: int) -> pl.DataFrame:
    """The prompts table (PROMPTS) of the dataset `name`, sorted by order.

    The order is by a hash of seed and prompt, so a raised `limit` only appends. The split is by a hash of the
    prompt alone, so seed and limit do not change it. Raises UserError if two rows share a prompt_id or one of
    the splits would be empty.
    """
    task = dataset.definition
    prompts = task.prompts(dataset)
    _check_ids(name, prompts)
    prompts.sort(key=lambda prompt: _hash(f"{seed}:{prompt.prompt_id}"))
    rows = [
        _row(task, prompt, order, split_of(prompt.prompt_id, dataset.calibration_share))
        for order, prompt in enumerate(prompts[: dataset.limit])
    ]
    _check_splits(name, rows)
    return pl.from_arrow(pa.Table.from_pylist(rows, schema=PROMPTS))


def split_of(prompt_id: str, calibration: float) -> str:
    """`calibration` for about that share of all prompts, `test` for the others."""
    return "calibration" if _hash(f"split:{prompt_id}") < calibration * 2**64 else "test"


def _hash(text: str) -> int:
    """A hash that is uniform over 64 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _row(task: Task, prompt: Prompt, order: int, split: str) -> dict:
    return {
        "prompt_id": prompt.prompt_id,
        "order": order,
        "split": split,
        "messages": prompt.messages,
        "plain": prompt.plain,
        "follow_ups": [follow_up._asdict() for follow_up in prompt.follow_ups],
        "stops": list(task.stops),
        "stop_tokens": list(task.stop_tokens),
        "answer": task.answer,
        "gold": json.dumps(prompt.gold, sort_keys=True),
    }


def _check_ids(name: str, prompts: list[Prompt]) -> None:
    counts = Counter(prompt.prompt_id for prompt in prompts)
    for prompt_id, count in counts.items():
        if count > 1:
            raise UserError(
                f"datasets.{name} should give every row its own prompt_id, got '{prompt_id}' twice; "
                "correct the task's prompts()."
            )


def _check_splits(name: str, rows: list[dict]) -> None:
    tests = sum(row["split"] == "test" for row in rows)
    if not 0 < tests < len(rows):
        raise UserError(
            f"datasets.{name} should give prompts for both splits, got {tests} for test and "
            f"{len(rows) - tests} for calibration; raise its limit or change its calibration share."
        )
