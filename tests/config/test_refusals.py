"""What a person sees when a setting cannot be: one sentence on stderr, exit code 1, no weights opened."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import NOISE, PARAMS, WORDS, make_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tiny_checkpoints, tmp_path, monkeypatch) -> dict:
    """Params of a folder whose checkpoints have no readable weights, so that loading one would show."""
    monkeypatch.chdir(tmp_path)
    for name in NOISE:
        home = Path("checkpoints", name)
        home.mkdir(parents=True)
        for file in (tiny_checkpoints / name).iterdir():
            if file.suffix == ".json":
                (home / file.name).write_bytes(file.read_bytes())
        (home / "model.safetensors").write_bytes(b"not weights")
    return copy.deepcopy(PARAMS)


def run(params: dict, stage: str, *arguments: str) -> subprocess.CompletedProcess:
    Path("params.yaml").write_text(yaml.safe_dump(params))
    command = [sys.executable, ROOT / "stages" / f"{stage}.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 1, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("fsgen: ")
    for word in words:
        assert word in sentence
    assert not Path("data").exists()


STAGES = [("model", "--model", "small"), ("dump_solo", "--model", "small"), ("rollout", "--pair", "duo")]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[0])
def test_an_unknown_key(params, stage):
    """Whatever stage runs first refuses the whole file."""
    params["dump"]["min_topk"] = 4

    assert_refused(
        run(params, *stage), "'min_topk' is not among the keys of dump", "did you mean 'min_top_k'"
    )


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[0])
def test_a_misspelt_model_name(params, stage):
    """In a pair it is found by every stage, and the nearest name is offered."""
    params["pairs"]["duo"]["tuned"] = "tunde"

    assert_refused(run(params, *stage), "'tunde'", "pairs.duo.tuned", "did you mean 'tuned'")


@pytest.mark.parametrize(
    ("stage", "flag", "name"),
    [("model", "--model", "smal"), ("dump_solo", "--model", "smal"), ("dump_large", "--pair", "dou")],
)
def test_a_misspelt_name_on_the_command_line(params, stage, flag, name):
    """The stage knows what params.yaml names."""
    assert_refused(run(params, stage, flag, name), f"'{name}' is not among", "did you mean")


def test_two_models_with_different_tokenizers(params):
    """Found before either model's weights are opened, whichever of the two is looked at first."""
    make_tokenizer([*WORDS[:-1], "other"]).save_pretrained("checkpoints/large")

    for name in ("small", "large"):
        done = run(params, "model", "--model", name)
        assert_refused(done, "pairs.duo", "'large'", "same tokenizer", "pair models of one family")


def test_two_models_with_different_stop_tokens(params):
    """The remedy is a setting."""
    params["models"]["small"]["stop_tokens"] = ["w3"]

    done = run(params, "model", "--model", "small")

    assert_refused(done, "pairs.duo", "same stop tokens", "stop_tokens")


def test_a_missing_dataset_file(params):
    """Named by its setting where the path is wrong, by its place where the folder lacks the split."""
    params["datasets"]["toy"] = {"task": "gsm8k", "path": "gsm8k", "max_new_tokens": 20}
    for stage in (("prompts", "--dataset", "toy"), ("dump_solo", "--model", "small")):
        assert_refused(run(params, *stage), "datasets.toy.path: there is nothing at 'gsm8k'")

    Path("gsm8k").mkdir()
    done = run(params, "prompts", "--dataset", "toy")

    assert_refused(done, "gsm8k should hold test.jsonl or test.parquet")
