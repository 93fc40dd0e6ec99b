"""The engine says the same however it is run: batch, budget, shard, order, company, memory."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from fsgen.cli import __main__
from fsgen.collaboration import fuse, route
from fsgen.decoding import batch_invariance, dump_solo, dump_teacher_forced
from fsgen.decoding.rollout import prefix_tree, rollout
from fsgen.errors import UserError
from fsgen.models import loaded_model, loading
from fsgen.tables import parquet
from tests.conftest import (
    NOISE,
    PARAMS,
    assert_same,
    describe_all,
    family_world,
    random_world,
    run_pair,
    tables,
    talking_world,
    write_params,
    write_prompts,
)

RUNS = {
    "one text at a time": {"compute": {"batch_size": 1}},
    "all texts at once": {"compute": {"batch_size": 100}, "dump": {"prompts_per_shard": 100}},
    "one token a pass": {"compute": {"max_batch_tokens": 1}},
    "a wide budget": {"compute": {"max_batch_tokens": 100_000}},
    "a prompt a shard": {"dump": {"prompts_per_shard": 1}},
    "two policies": {"policies": ["contrastive+entropy@20", "proxy+max_probability@30"]},
}


@pytest.fixture(scope="module")
def reference_run(tiny_checkpoints, tmp_path_factory) -> Path:
    """The random world, run as PARAMS say."""
    home = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        loaded = random_world(tiny_checkpoints)
        describe_all(loaded)
        run_pair(loaded)
    return home


def run_otherwise(checkpoints: Path, home: Path, changes: dict) -> dict[str, pl.DataFrame]:
    params = copy.deepcopy(PARAMS)
    for section, entry in changes.items():
        params[section] = params[section] | entry if isinstance(entry, dict) else entry
    Path("checkpoints").symlink_to(checkpoints)
    write_prompts()
    loaded = write_params(params)
    describe_all(loaded)
    run_pair(loaded)
    return tables(home)


@pytest.mark.parametrize("run", RUNS)
def test_how_it_is_run_changes_no_token_and_no_record(
    run, reference_run, tiny_checkpoints, tmp_path, monkeypatch
):
    """Tokens, texts, lists and decisions are equal, logits within 1e-4, in float32."""
    monkeypatch.chdir(tmp_path)

    ran = run_otherwise(tiny_checkpoints, tmp_path, RUNS[run])

    expected = tables(reference_run)
    assert expected.keys() == ran.keys()
    assert len(ran) == 12
    for name, table in ran.items():
        whole = expected[name]
        if "policy" in table.columns:
            whole = whole.filter(pl.col("policy").is_in(table["policy"].unique().implode()))
        assert len(table) > 0
        assert_same(whole, table, name)


def test_the_order_of_prompts_changes_nothing(reference_run, tiny_checkpoints, tmp_path, monkeypatch):
    """Other prompts share a shard and a batch, and every text is the same."""
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").symlink_to(tiny_checkpoints)
    write_prompts()
    path = Path("data/prompts/toy.parquet")
    turned = parquet.read(path).reverse().with_columns(order=pl.int_range(pl.len(), dtype=pl.Int32))
    parquet.write(path, turned, parquet.pa.schema(parquet.pq.read_schema(path)))
    loaded = write_params()
    describe_all(loaded)

    run_pair(loaded)

    for name, table in tables(reference_run).items():
        assert_same(table, tables(tmp_path)[name], name)


def test_policies_that_follow_dumped_text_take_no_model_step(tiny_world):
    """The large model's own text and the small one's are known; their positions are not computed again."""
    loaded = write_params(PARAMS | {"policies": ["oracle+always", "oracle+never", "speculative@3"]})
    oracle = {name: loaded.methods[name] for name in ("oracle", "speculative")}
    loaded = write_params(
        PARAMS
        | {"methods": {n: {"rule": m.rule} for n, m in oracle.items()}}
        | {"policies": ["oracle+always", "oracle+never", "speculative@3"]}
    )
    run_pair(loaded)

    steps = parquet.read("data/rollouts/duo/toy/steps-*.parquet")
    texts = parquet.read("data/rollouts/duo/toy/texts-*.parquet")

    assert steps["shared_steps"].sum() == steps["shared_prompt_steps"].sum() == 0
    large = texts.filter(policy="oracle+always")["tokens"].sum()
    both = large + texts.filter(policy="oracle+never")["tokens"].sum()
    alone = dict(steps.group_by("role").agg(pl.col("separate_steps").sum()).iter_rows())
    assert alone == {"small": both, "large": large}


def test_a_tree_takes_fewer_steps_than_its_policies_alone(reference_run):
    """And says by how many: every generated position of every branch once, for the models that it needs."""
    steps = parquet.read(reference_run / "data/rollouts/duo/toy/steps-*.parquet")
    totals = steps.group_by("role").agg(pl.col("shared_steps", "separate_steps").sum())
    rollout_rows = parquet.read(reference_run / "data/rollouts/duo/toy/tokens-*.parquet")
    spoken = rollout_rows.with_columns(
        role=pl.when(pl.col("policy").str.starts_with("proxy"))
        .then(pl.lit("tuned"))
        .otherwise(pl.lit("small"))
    )

    for role, taken, alone in totals.iter_rows():
        assert 0 < taken < alone / 2
        assert alone >= len(spoken.filter(role=role))
    # no model can have taken more steps than there are prefixes
    prefixes = (
        rollout_rows.sort("policy", "prompt_id", "pos")
        .group_by("policy", "prompt_id", maintain_order=True)
        .agg("token_id")
    )
    distinct = {(prompt, *ids[:i]) for _, prompt, ids in prefixes.iter_rows() for i in range(len(ids))}
    assert totals["shared_steps"].max() <= len(distinct)


@pytest.mark.parametrize("build", [random_world, family_world, talking_world])
def test_the_steps_are_those_that_trees_take(build, tiny_checkpoints, tmp_path, monkeypatch):
    """Counted on texts, and as the caches of a tree's models count: generated positions and given ones."""
    monkeypatch.chdir(tmp_path)
    loaded = build(tiny_checkpoints)
    describe_all(loaded)
    trees, run = [], prefix_tree.PrefixTree.run
    monkeypatch.setattr(
        prefix_tree.PrefixTree, "run", lambda tree, *given: trees.append(tree) or run(tree, *given)
    )
    run_pair(loaded)

    steps = parquet.read("data/rollouts/duo/toy/steps-*.parquet")
    whole = steps.select("role", pl.col("shared_steps") + pl.col("shared_prompt_steps"))
    assert whole.rows() == [(role, c.positions) for tree in trees for role, c in tree.caches.items()]
    assert steps["shared_steps"].min() > 0


def test_a_tree_asks_the_large_model_once_a_step(tiny_checkpoints, tmp_path, monkeypatch):
    """Where runs call, branches split and texts end: a second pass would read all weights again."""
    monkeypatch.chdir(tmp_path)
    loaded = random_world(tiny_checkpoints)
    describe_all(loaded)
    passes = []
    score, read = prefix_tree.PrefixTree._score_defaults, prefix_tree.PrefixTree._read_missed

    def count(tree, role, rows):
        passes[-1] += role == "large"
        read(tree, role, rows)

    monkeypatch.setattr(
        prefix_tree.PrefixTree, "_score_defaults", lambda tree: passes.append(0) or score(tree)
    )
    monkeypatch.setattr(prefix_tree.PrefixTree, "_read_missed", count)
    run_pair(loaded)

    assert max(passes) == 1


class Scarce:
    """Stands in for a model's forward pass where so many texts at once do not fit for a while."""

    def __init__(self, fits: int, error: Exception, times: float = 1):
        self.fits, self.error, self.times = fits, error, times
        self.honest = loaded_model.LoadedModel.hidden_states

    def run(self, loaded, ids_BL, **where):
        if len(ids_BL) > self.fits and self.times > 0:
            self.times -= 1
            raise self.error
        return self.honest(loaded, ids_BL, **where)

    def installed(self, patch: pytest.MonkeyPatch):
        scarce = lambda *ids, **where: self.run(*ids, **where)  # noqa: E731 - a method of the class it replaces
        patch.setattr(loaded_model.LoadedModel, "hidden_states", scarce)


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_budget_and_goes_on(error, reference_run, tiny_world, monkeypatch, capsys):
    """Every GPU stage ends with the tokens of an easier machine, and says what it did."""

    def run_scarcely(stage, *names):
        with monkeypatch.context() as patch:
            Scarce(2, error).installed(patch)
            stage(tiny_world, *names)
        return capsys.readouterr().err

    for name in NOISE:
        message = run_scarcely(dump_solo.dump_solo, name)
        assert "fsgen: memory ran out with texts side by side at 4; going on with 2" in message
    for stage in (dump_teacher_forced.dump_large, dump_teacher_forced.dump_small):
        message = run_scarcely(stage, "duo")
        assert "fsgen: memory ran out with tokens in a batch at 120; going on with 60" in message
    fuse.fuse_pair(tiny_world, "duo")
    route.route_pair(tiny_world, "duo")
    message = run_scarcely(rollout.rollout, "duo")
    assert "fsgen: memory ran out with branches side by side at 4; going on with 2" in message

    for name, table in tables(reference_run).items():
        assert_same(table, tables(Path())[name], name)


GREEDY = """
import torch
from fsgen.config.load import load_settings
from fsgen.execution import memory
from fsgen.models import loading
loading.load_model(load_settings(), "large")
total = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal")) << 10
try:
    torch.empty(total, dtype=torch.uint8)  # never touched, so that nothing is really used
except RuntimeError as error:
    print(memory.is_out_of_memory(error))
torch.empty(total // 16, dtype=torch.uint8)
"""


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux kills for memory")
def test_more_than_the_machine_has_is_refused_and_not_killed(tiny_world):
    """In a process of its own, since the limit stays: all memory is too much, a sixteenth is not."""
    done = subprocess.run([sys.executable, "-c", GREEDY], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "True"


def test_memory_that_suffices_for_nothing_is_a_complaint(tiny_world, monkeypatch):
    """One sentence with the remedy; other errors are not taken for a shortage."""
    loaded = loading.load_model(tiny_world, "small")
    monkeypatch.setattr(dump_solo, "load_checked", lambda *_: loaded)
    with monkeypatch.context() as patch:
        Scarce(0, MemoryError(), math.inf).installed(patch)
        with pytest.raises(UserError, match="Memory ran out with texts side by side at 1; use bfloat16"):
            dump_solo.dump_solo(tiny_world, "small")
    Scarce(0, RuntimeError("no such kernel")).installed(monkeypatch)
    with pytest.raises(RuntimeError, match="no such kernel"):
        dump_solo.dump_solo(tiny_world, "small")
    assert not Path("data/dumps/small").exists()


PEAK = """
import sys, resource, numpy as np, torch
from pathlib import Path
from transformers import Qwen2Config, Qwen2ForCausalLM
from fsgen.config.schema import DumpConfig, ModelConfig
from fsgen.decoding.teacher_forcing import TextToRead, teacher_force
from fsgen.models.loaded_model import LoadedModel
torch.set_num_threads(1)
length = int(sys.argv[1])
config = Qwen2Config(vocab_size=150_000, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=2, intermediate_size=16, max_position_embeddings=4096)
network = Qwen2ForCausalLM(config).eval().requires_grad_(False)
source = ModelConfig(prompt_format="plain", path="wide")
loaded = LoadedModel("wide", source, None, "plain", 150_000, (0,), 4096, 0, network, network.device)
dump = DumpConfig(nats_below_top=3.0, min_top_k=8, max_top_k=64, prompts_per_shard=1)
ids = torch.randint(0, 150_000, (length,), generator=torch.Generator().manual_seed(0)).tolist()
text = TextToRead([1, 2], ids, np.zeros((length, 4), np.int32), ("large",))
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if "VmHWM" in line).split()[1])
def read(text):
    (found,) = teacher_force({"large": loaded}, dump, [text], 10_000)
    return found["large"].records.entropy_N
read(TextToRead([1, 2], ids[:8], np.zeros((8, 4), np.int32), ("large",)))
Path("/proc/self/clear_refs").write_text("5")
before = peak()
assert len(read(text)) == length
print(peak() - before)
"""


@pytest.mark.models
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc")
def test_peak_memory_of_reading_does_not_grow_with_vocabulary_times_length():
    """Eight times the text takes less than a fifth more of what its logits alone would be."""
    short, long = (
        int(subprocess.run([sys.executable, "-c", PEAK, str(n)], capture_output=True, text=True, check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"}).stdout) * 1024
        for n in (128, 1024)
    )  # fmt: skip
    logits = 150_000 * 4 * (1024 - 128)

    assert short < 150_000 * 4 * 1024
    assert long - short < logits / 5


def test_float32_texts_do_not_depend_on_their_batch_and_the_check_says_so(tiny_world, capsys):
    """All tokens shared, no divergence, shifts of rounding's size."""
    result = batch_invariance.compare(tiny_world, "large", "toy", 6)

    assert result.shared == result.tokens > 50
    assert result.divergences == []
    assert result.largest_shift < 1e-4


def test_the_first_divergence_and_its_margin_are_reported(tiny_world, monkeypatch, capsys):
    """A model that leans the other way in company is found out, at the first token that this changes."""
    honest = loaded_model.LoadedModel.logits

    def swayed(self, hidden_NH):
        logits_NV = honest(self, hidden_NH)
        if len(hidden_NH) > 2:
            logits_NV[:, 5] += 2.0
        return logits_NV

    monkeypatch.setattr(loaded_model.LoadedModel, "logits", swayed)
    result = batch_invariance.compare(tiny_world, "large", "toy", 6)
    monkeypatch.setattr(sys, "argv", ["fsgen", "batch-invariance", "large", "--prompts", "6"])
    __main__.main()

    first = min(result.divergences, key=lambda there: there.pos)
    assert first.together_id == 5 != first.alone_id
    assert 0 <= first.margin <= 2.0
    assert result.shared < result.tokens
    message = capsys.readouterr().out
    assert (
        f"{first.prompt_id} parts at position {first.pos}: token {first.alone_id} alone, 5 together"
        in message
    )
    assert f"where the margin was {first.margin:.3g} nats." in message
