"""Claims about models that are wider than one card: laid over several, they leave what they leave on one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fsgen.config.schema import ComputeConfig
from fsgen.errors import UserError
from fsgen.models import loading
from tests.conftest import NOISE, PARAMS, describe_all, make_model, write_params, write_prompts

pytestmark = pytest.mark.models
CARDS = Path(__file__).with_name("cards.py")
POLICIES = ["oracle+entropy@20", "contrastive+always", "proxy+random@30"]
LAYER = 5_808 * 4  # bytes
SMALL, LARGE = 13_272 * 4, 13_272 * 4 + 4 * LAYER


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """Three random models, the large one of six layers."""
    home = tmp_path_factory.mktemp("checkpoints")
    for seed, (name, noise) in enumerate(NOISE.items()):
        make_model(home / name, noise, seed, layers=6 if name == "large" else 2)
    return home


def run_on(home: Path, checkpoints: Path, *size: int) -> dict[str, list[int]]:
    """The model stages of a small project on cards of so many bytes; which of them hold which model.

    In a process of its own; UserError as RuntimeError.
    """
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        Path("checkpoints").symlink_to(checkpoints)
        write_prompts(5)
        datasets = {"toy": PARAMS["datasets"]["toy"] | {"max_new_tokens": 8}}
        describe_all(write_params(PARAMS | {"policies": POLICIES, "datasets": datasets}))
    # its loader's threads would not know of the cards
    environment = os.environ | {"HF_DEACTIVATE_ASYNC_LOAD": "1", "PYTHONPATH": str(CARDS.parents[2])}
    command = [sys.executable, str(CARDS), *map(str, size)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def contents(home: Path) -> dict[str, bytes]:
    """What the stages left, file by file."""
    files = sorted((home / "data").rglob("*.parquet"))
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def one_card(checkpoints, tmp_path_factory) -> dict[str, bytes]:
    """What the stages leave where one card holds the three models and little more; each stage loads anew."""
    home = tmp_path_factory.mktemp("cards") / "one"
    held = run_on(home, checkpoints, (2 * SMALL + LARGE) * 5 // 4)
    assert held == {"small": [0], "tuned": [0], "large": [0]}
    return contents(home)


@pytest.mark.parametrize(
    ("sizes", "held"),
    [
        ((SMALL * 3 // 2, LARGE * 4 // 5, LARGE * 4 // 5), {"small": [0], "tuned": [0], "large": [0, 1, 2]}),
        ((SMALL // 2, LARGE * 3), {"small": [1], "tuned": [1], "large": [1]}),
    ],
)
def test_models_over_cards_leave_the_bytes_of_one(sizes, held, one_card, checkpoints, tmp_path):
    """Records, close-ups and every policy's texts, where models that are fused lie on unlike cards."""
    assert run_on(tmp_path / "several", checkpoints, *sizes) == held
    assert contents(tmp_path / "several") == one_card


@pytest.mark.parametrize("sizes", [(LARGE // 2, LARGE // 4), (LARGE, LAYER // 2, LAYER // 2)])
def test_a_model_that_the_cards_do_not_hold_is_refused(sizes, checkpoints, tmp_path):
    """Rather than read from disk in every pass, be it that a layer finds no card."""
    with pytest.raises(RuntimeError, match=f"weights of large should fit .* on {len(sizes)}.*, and do not"):
        run_on(tmp_path / "several", checkpoints, *sizes)


def test_ray_on_cpus_beside_a_card_is_refused(monkeypatch):
    """Stages that ran here before would have used it, in bfloat16."""
    compute = ComputeConfig(device="auto", dtype="auto", batch_size=1, max_batch_tokens=1, executor="ray")
    assert loading.placement(compute, None) == (torch.device("cpu"), torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    with pytest.raises(
        UserError, match=r"executor is ray and gpus_per_replica 0, .* set gpus_per_replica, or"
    ):
        loading.placement(compute, None)
    assert loading.placement(replace(compute, device="cpu"), None)[0].type == "cpu"
    assert loading.placement(replace(compute, gpus_per_replica=1), None)[0].type == "cuda"
