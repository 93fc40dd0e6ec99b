"""What a run will cost: counted by hand, never below what really happened, and stated in every profile."""

import copy
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml

from fsgen.cli import cost_estimates, stage_work
from fsgen.config.load import load_settings
from fsgen.config.schema import Settings
from fsgen.errors import UserError
from fsgen.models import description
from fsgen.tables import parquet
from fsgen.tasks import arith, gsm8k
from tests.conftest import PARAMS, make_model, write_prompts

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


def loaded_with(params: dict) -> Settings:
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return load_settings()


@pytest.fixture
def plan(tmp_path, monkeypatch) -> dict:
    """Two hub models that nobody has fetched, on a hundred prompts."""
    monkeypatch.chdir(tmp_path)
    hub = {"hub": "some/where", "revision": "main", "prompt_format": "plain"}
    return copy.deepcopy(PARAMS) | {
        "datasets": {"g": {"task": "gsm8k", "limit": 100, "max_new_tokens": 50, "calibration_share": 0.25}},
        "models": {"small": hub | {"parameter_count": 1e9}, "large": hub | {"parameter_count": 8e9}},
        "pairs": {"p": {"small": "small", "tuned": "small", "large": "large"}},
        "policies": ["oracle+entropy@20", "oracle+never"],
        "methods": {"oracle": {"rule": "oracle"}},
        "compute": {"device": "auto", "dtype": "bfloat16", "batch_size": 20, "max_batch_tokens": 1000},
        "dump": PARAMS["dump"] | {"prompts_per_shard": 64},
        "report": {"explorer_prompts": 4},
    }


def by_stage(loaded: Settings) -> dict[tuple[str, str], stage_work.StageWork]:
    return {(work.stage, work.model): work for work in stage_work.list_work(loaded)}


def test_one_pair_by_hand(plan):
    """100 prompts of 66 tokens, texts of 50, 75 of them tests, 3 policies with the always one."""
    work = by_stage(loaded_with(plan))
    assert work["dump_solo", "small"].positions == 100 * 116
    assert work["dump_solo", "small"].passes == 5 * 50
    assert work["dump_large", "large"].positions == 100 * 116
    assert work["dump_large", "large"].passes == 12
    assert work["dump_small", "small"].positions == 100 * (66 + 2 * 50)
    assert work["rollout", "large"].positions == 75 * 66 + 0.43 * 75 * 3 * 50 + 0.5
    assert work["rollout", "large"].rows == 75 * 3 * 50
    assert work["dump_rollouts", "small"].positions == 4 * (66 + 3 * 50)


def test_time_is_a_roofline(plan):
    """Writing reads the weights at every pass, reading is arithmetic; twice the machine, half the time."""
    loaded = loaded_with(plan)
    work = by_stage(loaded)
    machine = cost_estimates.Machine(flops=1e15, bandwidth=1e12, memory=80e9)
    solo = cost_estimates.stage_seconds(work["dump_solo", "large"], "bfloat16", 8e9, machine)
    assert solo == pytest.approx(250 * 8e9 * 2 / 1e12)
    read = cost_estimates.stage_seconds(
        work["dump_large", "large"], "bfloat16", 8e9, replace(machine, bandwidth=1e18)
    )
    assert read == pytest.approx(2 * 8e9 * 100 * 116 / 1e15)


def test_a_tuned_model_is_a_third_reader(plan):
    """Under proxy it writes, three texts are read by the small one, and one more by the large one."""
    plan["models"]["tuned"] = dict(plan["models"]["small"])
    plan["pairs"]["p"]["tuned"] = "tuned"
    unused = by_stage(loaded_with(plan))
    plan["methods"]["proxy"] = {"rule": "proxy"}
    work = by_stage(loaded_with(plan))

    assert ("dump_small", "tuned") not in unused
    assert unused["dump_large", "large"].positions == 100 * (66 + 50)
    assert work["dump_large", "large"].positions == 100 * (66 + 2 * 50)
    assert work["dump_small", "small"].positions == 100 * (66 + 3 * 50)
    assert work["dump_small", "tuned"].positions == 100 * (66 + 2 * 50)


def test_another_pair_adds_its_own_and_no_writing(plan):
    """Solo dumps are by model."""
    plan["models"]["middle"] = dict(plan["models"]["small"])
    before = stage_work.list_work(loaded_with(plan))
    plan["pairs"]["q"] = {"small": "middle", "tuned": "middle", "large": "large"}
    after = stage_work.list_work(loaded_with(plan))
    assert [work for work in after if work.subject != "q"] == before
    assert {work.stage for work in after if work.subject == "q"} == {
        "dump_large",
        "dump_small",
        "rollout",
        "dump_rollouts",
    }


def test_more_prompts_cost_more(plan):
    """In every stage but the close-ups, which look at a few."""
    few = by_stage(loaded_with(plan))
    plan["datasets"]["g"]["limit"] = 300
    many = by_stage(loaded_with(plan))
    for key, work in few.items():
        assert (
            many[key].positions == work.positions
            if key[0] == "dump_rollouts"
            else many[key].positions > work.positions
        )


def test_it_is_never_less_than_what_happened(finished):
    """Rows, bytes and generated positions of a run, against its bounds."""
    work = by_stage(finished)
    for model in finished.models:
        rows = parquet.read(f"data/dumps/{model}/toy/tokens-*.parquet", ["pos"])
        assert work["dump_solo", model].rows >= len(rows)
    reads = parquet.read("data/teacher_forced/small/duo/toy/reads-*.parquet", ["reader"])
    for role in ("small", "tuned"):
        assert work["dump_small", role].rows >= len(reads.filter(reader=role))
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet", ["pos"])
    assert work["rollout", "large"].rows >= len(rollout_rows)
    steps = parquet.read("data/rollouts/duo/toy/steps-*.parquet")
    tests = len(parquet.read("data/prompts/toy.parquet").filter(split="test"))
    alone = dict(steps.group_by("role").agg(pl.col("separate_steps").sum()).iter_rows())
    for role in ("small", "tuned", "large"):
        prompts = tests * arith.TASK.prompt_tokens
        assert (work["rollout", role].positions - prompts) / stage_work.TREE_STEP_SHARE >= alone[role] > 0


def test_a_task_without_figures_is_counted_by_its_limit_its_table_or_not_at_all(plan, monkeypatch):
    """And the estimate says which; a run of a benchmark that somebody added is no fault of ours."""
    monkeypatch.setattr(gsm8k, "TASK", replace(gsm8k.TASK, test_prompts=None, prompt_tokens=None))

    def reported(limit: int | None) -> tuple[str, int]:
        plan["datasets"]["g"]["limit"] = limit
        loaded = loaded_with(plan)
        (line,) = (
            line for line in cost_estimates.report_lines(loaded) if line.startswith("g: the task 'gsm8k'")
        )
        return line, by_stage(loaded)["dump_solo", "small"].positions

    line, positions = reported(100)
    assert "one turn and 100 tokens a prompt are assumed; 100 prompts are counted, as its limit says." in line
    assert positions == 100 * (100 + 50)
    line, positions = reported(None)
    assert "set datasets.g.limit or run 'dvc repro prompts@g'" in line
    assert positions == 0
    write_prompts(14)
    Path("data/prompts/toy.parquet").rename("data/prompts/g.parquet")
    line, positions = reported(None)
    assert "14 prompts are counted, as data/prompts/g.parquet holds." in line
    assert positions == 14 * (100 + 50)


def test_a_pair_the_wrong_way_round_is_doubted_once_both_sizes_are_known(plan):
    """Equal sizes and unknown ones are not."""
    for small, is_doubted in ((9e9, True), (8e9, False), (None, False)):
        plan["models"]["small"]["parameter_count"] = small
        reported = "\n".join(cost_estimates.report_lines(loaded_with(plan)))
        sentence = (
            "warning: pairs.p names 'small' small, with 9,000,000,000 parameters, and 'large' large, with "
            "8,000,000,000; swap them"
        )
        assert (sentence in reported) == is_doubted == ("warning" in reported)


def test_sizes_come_from_what_is_at_hand(plan, tmp_path):
    """A statement, then a checkpoint, then its description; without any the estimate goes on and says so."""
    del plan["models"]["small"]["parameter_count"]
    loaded = loaded_with(plan)
    assert cost_estimates.model_sizes(loaded.models) == {"small": None, "large": 8_000_000_000}
    reported = "\n".join(cost_estimates.report_lines(loaded, cost_estimates.MACHINES["h100"]))
    assert "sizes unknown: small" in reported
    assert re.search(r"dump_large +12 +11,600 +\d", reported)
    make_model(tmp_path / "here", 0.1, 1)
    plan["models"]["small"] = {"path": "here", "prompt_format": "plain"}
    loaded = loaded_with(plan)
    counted = description.describe("small", loaded.models["small"])["parameters"]["total"]
    assert cost_estimates.model_sizes(loaded.models)["small"] == counted


def test_a_wrong_statement_is_refused_when_the_checkpoint_is_there(plan, tmp_path):
    """By more than a twentieth."""
    make_model(tmp_path / "here", 0.1, 1)
    plan["models"]["small"] = {"path": "here", "prompt_format": "plain", "parameter_count": 5e9}
    loaded = loaded_with(plan)
    with pytest.raises(
        UserError, match=r"models\.small\.parameter_count says 5e\+09, but its checkpoint holds"
    ):
        description.describe("small", loaded.models["small"])


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_size_below_zero_is_refused(plan, value):
    """As a setting."""
    plan["models"]["small"]["parameter_count"] = value
    with pytest.raises(UserError, match="should be above 0"):
        loaded_with(plan)


def test_a_cache_is_bounded_from_above():
    """Qwen1.5-72B keeps all its heads: 80 layers of 8192, two bytes, keys and values."""
    assert 2 * 80 * 8192 <= cost_estimates.most_cached_values(72.3e9) <= 1.3 * 2 * 80 * 8192


def test_a_cache_is_counted_where_the_checkpoint_is_at_hand(plan, tmp_path):
    """Two layers of a random Llama, heads sharing no keys, 24 wide: weights and 16 texts of 48 tokens."""
    make_model(tmp_path / "here", 0.1, 1)
    for name in ("small", "large"):
        plan["models"][name] = {"path": "here", "prompt_format": "plain"}
    loaded = loaded_with(plan)
    config = json.loads((tmp_path / "here/config.json").read_text())
    shared = config["num_key_value_heads"] / config["num_attention_heads"]
    total = cost_estimates.model_sizes(loaded.models)["small"]
    volume = max(e.max_new_tokens + e.definition.prompt_tokens for e in loaded.datasets.values())

    assert cost_estimates.cached_values("small", loaded.models["small"], total) == 2 * 2 * 24 * shared
    held = 2 * 2 * (total + loaded.compute.batch_size * volume * 2 * 2 * 24 * shared)
    (pair,) = loaded.pairs
    assert (
        cost_estimates.rollout_memory(loaded, pair, cost_estimates.model_sizes(loaded.models), None) == held
    )


def told_in(path: Path) -> str:
    """What the header of a profile should say, as comments."""
    is_local = "local" in path.stem
    command = f"fsgen check profiles/{path.name}" + ("" if is_local else " --on h100")
    machine = None if is_local else cost_estimates.MACHINES["h100"]
    lines = [command, *cost_estimates.report_lines(load_settings(path), machine)[:-1]]
    return "".join(f"# {line.rstrip()}\n" for line in lines)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_says_what_it_will_cost(path, tmp_path, monkeypatch):
    """It loads, and its header is what the command prints (FSGEN_WRITE_DOCS=1 writes it anew)."""
    monkeypatch.chdir(tmp_path)
    for model in re.findall(r"path: (local/checkpoints/\S+?)[,}]", path.read_text()):
        make_model(Path(model), 0.1, 1)
    for data in re.findall(r"path: (local/data/\S+?)[,}]", path.read_text()):
        Path(data).mkdir(parents=True)
    head, rest = re.split(r"(?s)(?<=# <cost>\n).*(?=# </cost>)", path.read_text())
    if "local" in path.stem:
        monkeypatch.setattr(cost_estimates, "model_sizes", lambda models: dict.fromkeys(models, None))
    expected = told_in(path)
    if os.environ.get("FSGEN_WRITE_DOCS"):
        path.write_text(head + expected + rest)
    assert path.read_text() == head + expected + rest


def test_the_papers_grid():
    """Seven sizes, all their pairs, each with a tuned small model, its datasets."""
    loaded = load_settings(ROOT / "profiles" / "qwen15.yaml")
    assert len(loaded.pairs) == 21
    assert all(pair.has_tuned for pair in loaded.pairs.values())
    talking = load_settings(ROOT / "profiles" / "qwen15-mtbench.yaml")
    assert {e.task for e in [*loaded.datasets.values(), *talking.datasets.values()]} == {
        "gsm8k", "mmlu_stem", "mbpp", "mtbench",
    }  # fmt: skip
