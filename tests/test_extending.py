"""The examples of docs/extending.md, taken from the page and run through the machinery that it speaks of."""

import json
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from fsgen.analysis.scaling import law_intervals, laws
from fsgen.cli import cost_estimates, stage_work
from fsgen.collaboration import fusion, routers
from fsgen.collaboration.calibration import read_calibration
from fsgen.config import policies, registry
from fsgen.config.load import load_settings
from fsgen.config.schema import DatasetConfig
from fsgen.decoding import dump_solo
from fsgen.execution import executors
from fsgen.tables import parquet
from fsgen.tasks import grade, prompts
from tests.conftest import PARAMS, run_pair, write_params

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()


def example(file: str) -> str:
    """The block of the page that stands for (a part of) this file."""
    (code,) = re.findall(rf"```python\n# {re.escape(file)}\n(.*?)```", PAGE, flags=re.S)
    return code


def add(file: str, module: types.ModuleType, table: dict[str, str]) -> None:
    """Run the page's code in the module that it extends, and its one line in the registry."""
    exec(example(file), vars(module))
    lines = re.findall(r"```python\n# fsgen/config/registry\.py\n(.*?)```", PAGE, flags=re.S)
    (line,) = (line for line in lines if file.removesuffix(".py").replace("/", ".") in line)
    exec(line, {name: getattr(registry, name) for name in ("ROUTERS", "RULES", "TASKS", "EXECUTORS")})
    assert table


@pytest.fixture
def registries():
    """What examples add to registries is taken back."""
    tables = (registry.TASKS, registry.ROUTERS, registry.RULES, registry.EXECUTORS, laws.LAWS)
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


def test_a_task(registries, finished, monkeypatch, tmp_path):
    """With its file and its line alone: rows become prompts in both splits, a text is graded as `fsgen grade`
    does it, settings may name it, costs are estimated."""
    module = types.ModuleType("fsgen.tasks.letters")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    add("fsgen/tasks/letters.py", module, registry.TASKS)

    dataset = DatasetConfig(task="letters", max_new_tokens=8, calibration_share=0.4)
    table = prompts.build_prompts("letters", dataset, seed=1)
    assert set(table["split"]) == {"calibration", "test"}
    golds = {row["prompt_id"]: json.loads(row["gold"]) for row in table.iter_rows(named=True)}
    assert golds["letters-mississippi-s"] == {"count": "4"}
    assert table.filter(prompt_id="letters-level-e")["plain"][0].endswith("occur in level?\nAnswer:")

    message = {"It has 2.\nAnswer: 4": "right", "3, no, 4": "right", "Answer: 3": "wrong", "many": "unknown"}
    rows = [{"count": "4", "text": text} for text in message]
    grader = grade.Grader(finished.allow_code_execution, finished.sandbox)
    grades = grade.grade_rows(grader, "letters", rows)
    assert [row["verdict"] for row in grades] == list(message.values())

    entry = {"task": "letters", "max_new_tokens": 8, "limit": 20}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PARAMS | {"datasets": {"letters": entry}}))
    loaded = load_settings(tmp_path / "plan.yaml")
    solo = [work for work in stage_work.list_work(loaded) if work.stage == "dump_solo"]
    assert {work.positions for work in solo} == {20 * (stage_work.ASSUMED_PROMPT_TOKENS + 8)}
    assert f"{stage_work.ASSUMED_PROMPT_TOKENS} tokens a prompt are assumed; 20 prompts" in "".join(
        cost_estimates.report_lines(loaded)
    )
    assert f"{stage_work.ASSUMED_PROMPT_TOKENS} tokens a prompt" in PAGE


def test_a_router(registries, tiny_world):
    """It keeps a budget on calibration prompts, and the rollout calls where its score says so."""
    add("fsgen/collaboration/routers.py", routers, registry.ROUTERS)
    loaded = write_params(
        PARAMS
        | {
            "routers": PARAMS["routers"] | {"tail_mass": {}},
            "policies": ["oracle+tail_mass@30", "oracle+tail_mass@80"],
        }
    )
    run_pair(loaded)
    calibrated = read_calibration("duo", "toy").routers
    cuts = {name: router.threshold for name, router in calibrated.items()}
    assert cuts["oracle+tail_mass@30"] > cuts["oracle+tail_mass@80"]
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").filter(
        pl.col("policy").str.contains("tail_mass")
    )
    for (policy,), rows in rollout_rows.partition_by("policy", as_dict=True).items():
        assert (rows["called"] == (rows["score"] > cuts[policy])).all()
        assert rows["called"].any()
        assert not rows["called"].all()


def test_a_method(registries, tiny_world):
    """Fused on the dumps with sound certificates, and in a rollout over the full vocabulary."""
    add("fsgen/collaboration/fusion.py", fusion, registry.RULES)
    methods = {"oracle": {"rule": "oracle"}, "agreement": {"rule": "agreement", "weight": 2.0}}
    loaded = write_params(PARAMS | {"methods": methods, "policies": ["agreement+max_probability"]})
    assert loaded.methods["agreement"].parameters == {"alpha": 0.1, "weight": 2.0}
    run_pair(loaded)
    key = ["prompt_id", "turn", "pos"]
    fused = parquet.read("data/fused/duo/toy/fused-*.parquet").filter(method="agreement", writer="large")
    assert set(fused["certified"]) == {True}
    other = parquet.read("data/fused/duo/toy/fused-*.parquet").filter(method="oracle", writer="large")
    assert (fused.sort(key)["fused_id"] != other.sort(key)["fused_id"]).any()
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").filter(policy="agreement+always")
    both = rollout_rows.join(fused, on=key, suffix="_dumped")
    first = both.filter(pl.col("pos") == 0)  # the same prefix in any text
    assert len(first) > 5
    assert first["fused_id"].equals(first["fused_id_dumped"])


def test_a_law(registries):
    """Known parameters are found again, with an interval around them."""
    exec(example("fsgen/analysis/scaling/laws.py"), vars(laws))
    small_P = np.array([0.5, 0.5, 1.8, 1.8, 4.0, 7.0, 14.0])
    large_P = np.array([7.0, 72.0, 7.0, 72.0, 72.0, 72.0, 32.0])
    cof_P = 0.02 + 0.13 * (1 - small_P / large_P)
    result = laws.fit("shortfall", small_P, large_P, cof_P)
    assert result.params == pytest.approx({"c0": 0.02, "c1": 0.13})
    assert result.r2 == pytest.approx(1.0)
    assert result.loo_rmse == pytest.approx(0.0, abs=1e-12)
    noisy_P = cof_P + 0.004 * np.array([1, -1, 0.5, 1, -1, -0.5, 0.2])
    bounds = law_intervals.profile("shortfall", small_P, large_P, noisy_P)["c1"]
    assert bounds.low < 0.13 < bounds.high


def test_a_rule_that_the_proof_does_not_know_is_uncertain(registries, monkeypatch):
    """Without a mask and reading more than the large model, nothing is proven by default."""
    add("fsgen/collaboration/fusion.py", fusion, registry.RULES)
    monkeypatch.setattr(fusion, "AGREEMENT", fusion.AGREEMENT._replace(masked=False))
    method = policies.method_table({"agreement": {}})["agreement"]
    lists = fusion.TopLists(
        np.array([[3, 5]]), np.array([[2.0, 1.0]]), np.array([[0.0, 0.5]]), None, None, np.zeros(1)
    )
    fused_N, proven_N = fusion.fuse(method, lists)
    assert fused_N.tolist() == [3]
    assert proven_N.tolist() == [False]


def module(file: str, monkeypatch) -> types.ModuleType:
    """The page's file as a module that others can import."""
    name = file.removesuffix(".py").replace("/", ".")
    made = types.ModuleType(name)
    exec(example(file), vars(made))
    monkeypatch.setitem(sys.modules, name, made)
    package, _, attribute = name.rpartition(".")
    if package in sys.modules:
        monkeypatch.setattr(sys.modules[package], attribute, made, raising=False)
    return made


def test_an_executor(registries, tiny_world, monkeypatch):
    """The shards are those of the local executor, to the byte, made in its own order."""
    executor = module("fsgen/execution/shortest_first.py", monkeypatch)
    add("fsgen/execution/shortest_first.py", executor, registry.EXECUTORS)
    written = {}
    for name in ("local", "shortest_first"):
        loaded = write_params(PARAMS | {"compute": PARAMS["compute"] | {"executor": name}})
        shutil.rmtree("scratch", ignore_errors=True)
        dump_solo.dump_solo(loaded, "small")
        files = sorted(Path("data/dumps/small/toy").glob("*.parquet"))
        written[name] = {file.name: file.read_bytes() for file in files}
    assert len(written["local"]) > 2
    assert written["shortest_first"] == written["local"]

    counts = [5, 2, 3]
    with executor.SHORTEST_FIRST.open(loaded, None) as execute:
        monkeypatch.setattr(executors.Worker, "make", lambda worker, shard, *_: shard.texts)
        shards = [types.SimpleNamespace(texts=count, prefetch=lambda shard: None) for count in counts]
        assert [made for _, made in execute(shards, None)] == sorted(counts)


def test_a_stage_and_a_command(finished, monkeypatch, capsys):
    """The script writes the metrics, the command prints them; both are named in the ways the page says."""
    module("fsgen/analysis/lengths.py", monkeypatch)
    command = module("fsgen/cli/lengths.py", monkeypatch)
    assert "COMMANDS += (lengths.lengths,)" in example("fsgen/cli/__main__.py")
    (entry,) = re.findall(r"```yaml\n(  lengths:\n.*?)```", PAGE, flags=re.S)
    assert yaml.safe_load(entry)["lengths"]["cmd"] == "python stages/lengths.py"
    script = {"__name__": "lengths"}
    exec(example("stages/lengths.py"), script)
    script["main"]()
    command.lengths()
    written = Path("metrics/lengths.json")
    lengths = json.loads(written.read_text())["toy"]
    written.unlink()
    solo = parquet.read("data/dumps/small/toy/tokens-*.parquet").filter("in_answer")
    assert lengths["small"] == pytest.approx(len(solo) / solo["prompt_id"].n_unique())
    assert f"toy small {lengths['small']:.1f}\n" in capsys.readouterr().out
