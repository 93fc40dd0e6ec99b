"""Prompts keep their places and their splits, and every text gets its verdict."""

import ast
import importlib
import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest import mock

import hypothesis
import polars as pl
import pytest
from hypothesis import strategies as st

import fsgen
from fsgen.config import registry
from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tables import parquet
from fsgen.tasks import grade, prompts
from fsgen.tasks.protocol import Prompt, Task

PACKAGE = Path(fsgen.__file__).parent


def fake(count: int) -> Task:
    """A task of `count` rows whose right answer is the row's own name."""
    return Task(
        prompts=lambda dataset: [
            Prompt(f"fake-{i:03d}", [{"role": "user", "content": f"{i}"}], f"{i}:", {"name": f"{i}"})
            for i in range(count)
        ],
        gold=("name",),
        stops=("\nStop",),
        stop_tokens=("<end>",),
        answer="is .*",
    )


@contextmanager
def registered(task: Task):
    """The registry with one more task, `fake`."""
    module = ModuleType("fake_task")
    module.TASK = task
    with (
        mock.patch.dict(sys.modules, {"fake_task": module}),
        mock.patch.dict(registry.TASKS, {"fake": "fake_task:TASK"}),
    ):
        yield


def build(count: int, seed: int = 1, **given) -> pl.DataFrame:
    entry = DatasetConfig(task="fake", max_new_tokens=8, **given)
    with registered(fake(count)):
        return prompts.build_prompts("toy", entry, seed)


@pytest.mark.parametrize("name", registry.TASKS)
def test_a_name_that_params_yaml_may_hold_is_a_task_that_can_be_run(name):
    """It has prompts, gold columns, and either a function or a judge for verdicts."""
    task = DatasetConfig(task=name, max_new_tokens=8).definition

    assert isinstance(task, Task)
    assert callable(task.prompts)
    assert task.gold
    assert (task.grade is None) == task.is_judged == callable(task.requests)
    assert not (task.runs_code and task.is_judged)


def test_resolving_every_task_imports_no_grader_of_formulas_no_torch_and_no_hub_client():
    """Settings resolve the tasks that they name; only grading, models and the hub need those packages."""
    code = (
        "import sys\n"
        "from fsgen.config.registry import TASKS, resolve\n"
        "for name in TASKS:\n    resolve(TASKS, name, 'the tasks')\n"
        "print({'sympy', 'math_verify', 'latex2sympy2_extended', 'torch', 'datasets', 'openai', 'pebble'}"
        " & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout == "set()\n", done.stderr


def test_no_module_but_a_tasks_own_names_it():
    """A string that is a task's name stands in the task's module and in the registry, nowhere else."""
    named = {}
    for path in PACKAGE.rglob("*.py"):
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        subset = {path.stem} if path.parent == PACKAGE / "tasks" else set()
        named[str(path.relative_to(PACKAGE))] = (strings & registry.TASKS.keys()) - subset

    assert {path for path, names in named.items() if names} <= {"config/registry.py"}


@pytest.mark.parametrize("name", registry.TASKS)
def test_a_registry_line_leads_to_the_module_of_that_name(name):
    """So that a reader finds the task's one file by the name in params.yaml."""
    module, _, attribute = registry.TASKS[name].partition(":")

    assert module == f"fsgen.tasks.{name}"
    assert isinstance(getattr(importlib.import_module(module), attribute), Task)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.integers(40, 120), st.integers(40, 120), st.integers(0, 2**31))
def test_a_raised_limit_keeps_the_earlier_prompts(low, high, seed):
    """The shorter table is the head of the longer one, row for row and with its splits."""
    low, high = sorted((low, high))

    assert build(120, seed, limit=high)[:low].equals(build(120, seed, limit=low))


def test_a_prompt_keeps_its_split_under_every_seed_and_limit():
    """Seeds reorder; they never move a prompt from calibration to test."""
    first, second = build(120, seed=1), build(120, seed=2, limit=80)
    splits = dict(first.select("prompt_id", "split").iter_rows())

    assert first["prompt_id"].to_list() != build(120, seed=2)["prompt_id"].to_list()
    assert all(splits[name] == split for name, split in second.select("prompt_id", "split").iter_rows())


def test_order_and_split_are_independent():
    """The share of calibration prompts is the same in either half of the order, within five deviations."""
    table = build(4000, calibration_share=0.25)
    bound = 5 * (0.25 * 0.75 / 2000) ** 0.5

    for half in (table[:2000], table[2000:]):
        assert abs((half["split"] == "calibration").mean() - 0.25) < bound


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.25), (0.25, 0.9)])
def test_a_larger_calibration_share_only_adds(low, high):
    """A prompt's number is fixed; the share is the line it is compared with."""
    few, many = (build(300, calibration_share=share).filter(split="calibration") for share in (low, high))

    assert set(few["prompt_id"]) < set(many["prompt_id"])


def test_a_limit_beyond_the_rows_takes_all_of_them():
    """Every row once, numbered from 0."""
    table = build(50, limit=1000)

    assert table["order"].to_list() == list(range(50))
    assert sorted(table["prompt_id"]) == [f"fake-{i:03d}" for i in range(50)]


def test_a_prompt_carries_what_the_task_says():
    """Its stops, its answer's pattern and its gold columns travel with the row."""
    row = build(50).sort("prompt_id").row(7, named=True)

    assert row["plain"] == "7:"
    assert row["messages"] == [{"role": "user", "content": "7"}]
    assert (row["stops"], row["stop_tokens"], row["answer"]) == (["\nStop"], ["<end>"], "is .*")
    assert json.loads(row["gold"]) == {"name": "7"}


def test_the_table_survives_the_file(tmp_path):
    """Written under its schema and read back, nothing has changed; written twice, not a byte."""
    table = build(50)
    for name in ("one", "two"):
        parquet.write(tmp_path / f"{name}.parquet", table, prompts.PROMPTS)

    assert parquet.read(tmp_path / "one.parquet").equals(table)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_dataset_without_rows_is_refused():
    """Nothing for either split."""
    with pytest.raises(
        UserError, match=r"datasets\.toy .* got 0 for test and 0 for calibration; raise its limit"
    ):
        build(0)


@pytest.mark.parametrize(("share", "counts"), [(1e-9, "9 for test and 0"), (1 - 1e-9, "0 for test and 9")])
def test_a_split_without_prompts_is_refused(share, counts):
    """Routers need calibration prompts and results need test prompts."""
    with pytest.raises(UserError, match=f"got {counts}"):
        build(50, limit=9, calibration_share=share)


def test_two_rows_of_one_name_are_refused():
    """Joins by prompt_id would count them twice."""
    twice = replace(fake(3), prompts=lambda dataset: [Prompt("fake-000", [], "0", {"name": "0"})] * 2)
    with registered(twice), pytest.raises(UserError, match="got 'fake-000' twice"):
        prompts.build_prompts("toy", DatasetConfig(task="fake", max_new_tokens=8), 1)


def test_writing_prompts_says_how_many(sums, capsys):
    """The closing line counts both splits."""
    prompts.write_prompts(sums.settings, "sums")
    tests = len(sums.prompts.filter(split="test"))

    assert capsys.readouterr().out == (
        f"data/prompts/sums.parquet: {tests} test and {40 - tests} calibration prompts\n"
    )


def test_a_misspelt_name_is_refused(sums):
    """Dataset, model and pair alike."""
    for call, name in (
        (prompts.write_prompts, "sum"),
        (grade.grade_models, "n"),
        (grade.grade_pair, "duet"),
    ):
        with pytest.raises(UserError, match=f"'{name}' is not among"):
            call(sums.settings, name)
