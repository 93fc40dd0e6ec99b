"""Claims about models that are wider than one card: laid over several, they leave what they leave on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NOISE, PARAMS, describe_all, make_model, write_params, write_prompts

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


def run_on(home: Path, checkpoints: Path, *free: int) -> dict[str, list[str]]:
    """The model stages of a small project on cards with so many free bytes; which of them hold which model.

    In a process of its own; Complaint as RuntimeError.
    """
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        Path("checkpoints").symlink_to(checkpoints)
        write_prompts(5)
        datasets = {"toy": PARAMS["datasets"]["toy"] | {"max_new_tokens": 8}}
        describe_all(write_params(PARAMS | {"policies": POLICIES, "datasets": datasets}))
    # its loader's threads would not know of the cards
    environment = os.environ | {"HF_DEACTIVATE_ASYNC_LOAD": "1", "PYTHONPATH": str(CARDS.parent.parent)}
    command = [sys.executable, str(CARDS), *map(str, free)]
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
    """What the stages leave where one card holds everything."""
    home = tmp_path_factory.mktemp("cards") / "one"
    assert set(map(tuple, run_on(home, checkpoints, 10**9).values())) == {("card:0",)}
    return contents(home)


@pytest.mark.parametrize(
    ("free", "small", "large"),
    [
        ((SMALL * 3 // 2, LARGE // 2, LARGE // 2), ["card:0"], ["card:0", "card:1", "card:2"]),
        ((SMALL // 2, LARGE * 2), ["card:1"], ["card:1"]),
    ],
)
def test_models_over_cards_leave_the_bytes_of_one(free, small, large, one_card, checkpoints, tmp_path):
    """Records, close-ups and every policy's texts, where models that are fused lie on unlike cards."""
    held = run_on(tmp_path / "several", checkpoints, *free)

    assert held == {"small": small, "tuned": small, "large": large}
    assert contents(tmp_path / "several") == one_card


@pytest.mark.parametrize("free", [(LARGE // 2, LARGE // 4), (LARGE, LAYER // 2, LAYER // 2)])
def test_a_model_that_the_cards_do_not_hold_is_refused(free, checkpoints, tmp_path):
    """Rather than read from disk in every pass, be it that a layer finds no card."""
    with pytest.raises(RuntimeError, match=f"weights of large should fit .* on {len(free)}.*, and do not"):
        run_on(tmp_path / "several", checkpoints, *free)
