"""A small world for the tests: three random models that share one tokenizer, and prompts for them.

Functions import what runs models themselves: the controller of pytest-xdist loads this file too, before any
worker starts, and torch and transformers take seconds.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # xdist runs one worker a core

import hypothesis
import numpy as np
import polars as pl
import pytest
import yaml

from fsgen.config.load import load_settings
from fsgen.config.schema import DatasetConfig, PairConfig, Settings
from fsgen.tables import parquet
from fsgen.tables.schemas.tasks import PROMPTS
from fsgen.tasks import prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

hypothesis.settings.register_profile("fast", max_examples=15)  # of make test-fast
ROOT = Path(__file__).parent.parent
WORDS = [f"w{i}" for i in range(28)]
LIMIT = 20  # tokens of a text
NOISE = {"small": 0.15, "tuned": 0.2, "large": 0.0}


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items):
    """Mark the tests that make or run models, by their fixtures; skip slow ones unless FSGEN_SLOW is set."""
    for item in items:
        if "tiny_checkpoints" in item.fixturenames:
            item.add_marker(pytest.mark.models)
        if item.get_closest_marker("slow") and not os.environ.get("FSGEN_SLOW"):
            item.add_marker(pytest.mark.skip(reason="slow: set FSGEN_SLOW=1"))


PARAMS = {
    "seed": 7,
    "datasets": {"toy": {"task": "arith", "max_new_tokens": LIMIT}},
    "models": {name: {"path": f"checkpoints/{name}", "prompt_format": "plain"} for name in NOISE},
    "pairs": {"duo": {"small": "small", "tuned": "tuned", "large": "large"}},
    "methods": {
        "oracle": {"rule": "oracle"},
        "speculative": {"rule": "speculative"},
        "contrastive": {"rule": "li2022"},
        "contrastive_obrien": {"rule": "obrien2023"},
        "average": {"rule": "average"},
        "proxy": {"rule": "proxy"},
    },
    "routers": {
        "always": {},
        "never": {},
        "max_probability": {"threshold": 0.5},
        "margin": {"threshold": 0.4},
        "entropy": {},
        "logistic": {"threshold": 0.5},
        "svm": {},
        "random": {},
        "perfect": {},
    },
    "dump": {"nats_below_top": 2.5, "min_top_k": 4, "max_top_k": 20, "prompts_per_shard": 6},
    "compute": {"device": "cpu", "dtype": "float32", "batch_size": 4, "max_batch_tokens": 120},
    "report": {"explorer_prompts": 3},
}
ROUTES = ["always", "never", "max_probability", "margin", "max_probability@30", "margin@10"]
ROUTES += ["entropy@20", "random@20", "perfect", "perfect@10"]
LEARNED = ["logistic", "logistic@20", "svm@30"]
PARAMS["policies"] = [f"speculative@{k}" for k in (1, 3, 5)] + [
    f"{method}+{router}" for method in PARAMS["methods"] if method != "speculative" for router in ROUTES
]
PARAMS["policies"] += [f"{method}+{router}" for method in ("oracle", "proxy") for router in LEARNED]


def make_tokenizer(words: list[str]) -> "PreTrainedTokenizerFast":
    """A tokenizer with one id a word; the end token is the last."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*words, "<unk>", "<end>"])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", unk_token="<unk>")


def make_model(folder: Path, noise: float, seed: int, words: list[str] = WORDS, layers: int = 2) -> None:
    """Save a random Llama, `noise` away from the one that all share, so that two of them often agree.

    Its output matrix has more rows than its tokenizer has ids, as in real checkpoints.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(words)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 4,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.35,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    network = LlamaForCausalLM(config)
    torch.manual_seed(seed)
    for weights in network.parameters():
        weights.data += noise * weights.data.std().nan_to_num() * torch.randn_like(weights)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_prompts(
    count: int = 14,
    stops: tuple[str, ...] = (),
    follow_ups: tuple[str, ...] = (),
    stop_tokens: tuple[str, ...] = (),
    answer: str | None = None,
) -> None:
    """Write a prompts table of random words; every third prompt is for calibration.

    Of `follow_ups` the prompts have, in turn, the first, the first two, and none.
    """
    import torch

    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, 9, (count,), generator=generator)
    rows = []
    for i, length in enumerate(lengths):
        words = " ".join(WORDS[j] for j in torch.randint(0, len(WORDS), (int(length),), generator=generator))
        rows.append(
            {
                "prompt_id": f"toy-{i:03d}",
                "order": i,
                "split": "calibration" if i % 3 == 0 else "test",
                "messages": [{"role": "user", "content": words}],
                "plain": words,
                "follow_ups": [{"message": text, "plain": text} for text in follow_ups[: (i + 1) % 3]],
                "stops": list(stops),
                "stop_tokens": list(stop_tokens),
                "answer": answer,
                "gold": json.dumps({"answer": f"#### {i}", "question": words}),
            }
        )
    Path("data/prompts").mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(rows, schema=pl.Schema(PROMPTS))
    parquet.write(Path("data/prompts/toy.parquet"), frame, PROMPTS)


def write_params(params: dict = PARAMS) -> Settings:
    """Write params.yaml into the current folder; returns its settings."""
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return load_settings()


def describe_all(loaded: Settings) -> None:
    """Run the stage `model` for every model, less its vocabulary."""
    from fsgen.models import description

    for name in loaded.models:
        description.write_description(loaded, name)


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory) -> Path:
    """A folder with the three random checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, (name, noise) in enumerate(NOISE.items()):
        make_model(folder / name, noise, seed)
    return folder


@pytest.fixture
def tiny_world(tiny_checkpoints, tmp_path, monkeypatch) -> Settings:
    """An empty project folder with tiny models, prompts and params."""
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").symlink_to(tiny_checkpoints)
    write_prompts()
    loaded = write_params()
    describe_all(loaded)
    return loaded


def random_world(checkpoints: Path) -> Settings:
    """Settings of random models on prompts of random words."""
    Path("checkpoints").symlink_to(checkpoints)
    write_prompts()
    return write_params()


def family_world(checkpoints: Path) -> Settings:
    """Settings of two members of the embedded family and a tuned one on arith."""
    Path("checkpoints").mkdir()
    for role, name in {"small": "base-23k", "tuned": "tuned-23k", "large": "base-87k"}.items():
        Path("checkpoints", role).symlink_to(ROOT / "data/embedded" / name)
    dataset = {"task": "arith", "limit": 16, "max_new_tokens": LIMIT, "calibration_share": 0.3}
    loaded = write_params(PARAMS | {"datasets": {"toy": dataset}})
    prompts.write_prompts(loaded, "toy")
    return loaded


BRIDGE = "w3 w7 w8 w9"  # an answer that ends with w3 holds its first token


def talking_world(checkpoints: Path) -> Settings:
    """Settings of random models on conversations of one to three short turns; the word w3 ends a turn."""
    Path("checkpoints").symlink_to(checkpoints)
    write_prompts(11, follow_ups=(BRIDGE, BRIDGE), stop_tokens=("w3", "<|unheard of|>"))
    return write_params(PARAMS | {"datasets": {"toy": PARAMS["datasets"]["toy"] | {"max_new_tokens": 7}}})


def run_pair(loaded: Settings) -> None:
    """Run the stages from `dump_solo` to `rollout`."""
    from fsgen.collaboration import fuse, route
    from fsgen.decoding import dump_solo, dump_teacher_forced
    from fsgen.decoding.rollout import rollout

    for name in loaded.models:
        dump_solo.dump_solo(loaded, name)
    dump_teacher_forced.dump_large(loaded, "duo")
    dump_teacher_forced.dump_small(loaded, "duo")
    fuse.fuse_pair(loaded, "duo")
    route.route_pair(loaded, "duo")
    rollout.rollout(loaded, "duo")


def finish_pair(loaded: Settings) -> None:
    """Run the stages from `model` to `evaluate`: all that the analyses read."""
    from fsgen.analysis import catalogue, evaluate
    from fsgen.models import vocabulary
    from fsgen.tasks import grade

    describe_all(loaded)
    catalogue.write_catalogue(loaded)
    run_pair(loaded)
    for name in loaded.models:
        vocabulary.write_vocabulary(loaded, name)
        grade.grade_models(loaded, name)
    grade.grade_pair(loaded, "duo")
    evaluate.evaluate(loaded, "toy")


@pytest.fixture(scope="module", params=[random_world, family_world, talking_world])
def world(request, tiny_checkpoints, tmp_path_factory):
    """A project folder in which the stages up to `rollout` have run, with its models in memory."""
    from fsgen.decoding import texts
    from fsgen.models import loading

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("world"))
        loaded = request.param(tiny_checkpoints)
        describe_all(loaded)
        run_pair(loaded)
        in_memory = {role: loading.load_model(loaded, role) for role in ("small", "tuned", "large")}
        prompts = parquet.read("data/prompts/toy.parquet")
        limit = loaded.datasets["toy"].max_new_tokens
        until = texts.stop_rule(in_memory["large"], prompts, limit)
        yield SimpleNamespace(settings=loaded, loaded=in_memory, prompts=prompts, limit=limit, until=until)


@pytest.fixture
def sums(tmp_path, monkeypatch) -> SimpleNamespace:
    """An empty project folder with forty sums as a local GSM8K file, one model and one pair."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in range(40)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = {
        "seed": 7,
        "datasets": {"sums": DatasetConfig(task="gsm8k", path="sums.jsonl", max_new_tokens=8)},
        "models": {"m": None},
        "pairs": {"duo": PairConfig(small="m", tuned="m", large="n")},
    }
    unused = dict.fromkeys(("methods", "routers", "policies", "dump", "compute", "report"))
    settings = Settings(**entries, **unused)
    prompts.write_prompts(settings, "sums")
    return SimpleNamespace(settings=settings, prompts=parquet.read("data/prompts/sums.parquet"))


@pytest.fixture(scope="session")
def finished_home(tiny_checkpoints, tmp_path_factory) -> Path:
    """A project folder in which a pair of the embedded family ran every stage but the report."""
    from fsgen.analysis.comparison import compare
    from fsgen.analysis.scaling import published, scaling
    from fsgen.analysis.uncertainty import uncertainty
    from fsgen.decoding import dump_rollouts

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        Path("queries").symlink_to(ROOT / "queries")
        loaded = family_world(tiny_checkpoints)
        finish_pair(loaded)
        dump_rollouts.dump_rollouts(loaded, "duo")
        published.write_published(ROOT / "data/published/cof.csv")
        for stage in (compare.compare, scaling.write_scaling, uncertainty.write_uncertainty):
            stage(loaded)
        return Path.cwd()


@pytest.fixture
def finished(finished_home, monkeypatch) -> Settings:
    """The settings of `finished_home`, in that folder; tests leave its tables as they are."""
    monkeypatch.chdir(finished_home)
    return load_settings()


@pytest.fixture(scope="session")
def s3():
    """The address of a bucket on an S3 server that runs in this process."""
    moto = pytest.importorskip("moto.server", reason="needs moto's server")
    pytest.importorskip("s3fs", reason="needs the extra fsgen[s3]")
    import boto3

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for secret in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(secret, "testing")
        boto3.client("s3").create_bucket(Bucket="tests")
        yield "s3://tests"
    server.stop()


TABLE_KEYS = {
    "dumps/*/toy/tokens": ["prompt_id", "pos"],
    "dumps/*/toy/texts": ["prompt_id"],
    "teacher_forced/large/duo/toy/reads": ["writer", "reader", "prompt_id", "pos"],
    "teacher_forced/small/duo/toy/reads": ["writer", "reader", "prompt_id", "pos"],
    "fused/duo/toy/fused": ["method", "writer", "prompt_id", "pos"],
    "routes/duo/toy/simulated": ["policy", "prompt_id", "pos"],
    "rollouts/duo/toy/tokens": ["policy", "prompt_id", "pos"],
    "rollouts/duo/toy/texts": ["policy", "prompt_id"],
}


def tables(home: Path) -> dict[str, pl.DataFrame]:
    """What the stages from `dump_solo` to `rollout` wrote, by folder and kind, sorted by keys."""
    tables = {}
    for pattern, key in TABLE_KEYS.items():
        folder_pattern, kind = pattern.rsplit("/", 1)
        for folder in sorted((home / "data").glob(folder_pattern)):
            name = f"{folder.relative_to(home)}/{kind}"
            tables[name] = parquet.read(folder / f"{kind}-*.parquet").sort(key)
    return tables


def assert_same(one: pl.DataFrame, other: pl.DataFrame, name: str) -> None:
    """Fail unless keys, tokens and decisions are equal, and floats within 1e-4."""
    assert one.columns == other.columns
    for column, kind in one.schema.items():
        a, b = one[column], other[column]
        if kind in (pl.Float32, pl.List(pl.Float32)):
            if kind != pl.Float32:
                assert a.list.len().equals(b.list.len()), (name, column)
                a, b = a.explode(), b.explode()
            assert np.allclose(a, b, atol=1e-4, rtol=1e-5, equal_nan=True), (name, column)
        else:
            assert a.equals(b), (name, column)


def replace_part(page: str, part: str, content: str) -> str:
    """The page with this content between the two comments that mark a part."""
    start, end = f"<!-- {part}: start -->\n", f"<!-- {part}: end -->\n"
    before, rest = page.split(start)
    return before + start + content + end + rest.split(end)[1]


def check_part(part: str, contents: list[str]) -> None:
    """Fail unless README.md holds one of these contents; FSGEN_WRITE_DOCS=1 writes the first."""
    page = (ROOT / "README.md").read_text()
    if os.environ.get("FSGEN_WRITE_DOCS"):
        page = replace_part(page, part, contents[0])
        (ROOT / "README.md").write_text(page)
    assert page in [replace_part(page, part, content) for content in contents]
