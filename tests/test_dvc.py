"""DVC runs what a change touches, and nothing else."""

import copy
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import PARAMS

ROOT = Path(__file__).parent.parent
SMALL = {
    "datasets": {"toy": {"task": "arith", "limit": 12, "max_new_tokens": 8, "calibration_share": 0.4}},
    "policies": ["oracle+entropy@20", "speculative@3"],
    "embedded_models": {},
    "embedded_finetunes": {},
}


@pytest.fixture(scope="module")
def project(tiny_checkpoints, tmp_path_factory) -> Path:
    """A copy of the pipeline on random models, run to its end."""
    home = tmp_path_factory.mktemp("project")
    for part in ("stages", "fsgen", "queries", "data/published"):
        shutil.copytree(ROOT / part, home / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / file, home)
    (home / "checkpoints").symlink_to(tiny_checkpoints)
    (home / "data/embedded").mkdir(parents=True)
    (home / "data/embedded/none.txt").write_text("no embedded family here\n")
    save(home, PARAMS | SMALL)
    dvc(home, "init", "--no-scm", "-q")
    shutil.copy(ROOT / ".dvc/config", home / ".dvc/config")
    dvc(home, "config", "core.no_scm", "true")
    dvc(home, "repro")
    return home


def save(home: Path, params: dict) -> None:
    (home / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def dvc(home: Path, *words: str) -> str:
    """What a DVC command prints; fails the test where the command fails."""
    return shell(home, shlex.join(["dvc", *words]))


def blocks() -> list[str]:
    """The shell blocks of docs/machines.md: stages side by side, a remote, a clone of it."""
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs/machines.md").read_text(), flags=re.S)


def shell(home: Path, script: str) -> str:
    """What a script prints, its lines run one after the other; fails the test where one fails."""
    environment = os.environ | {
        "PYTHONPATH": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def test_the_committed_checkpoints_are_not_stale():
    """dvc.lock holds the code that trains as it is now, so `dvc repro` trains nothing.

    After a change of words there, `dvc commit -f train tune` keeps the checkpoints.
    """
    locked = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    training = {name: stage for name, stage in locked.items() if name.startswith(("train@", "tune@"))}
    assert len(training) == 7
    for stage in training.values():
        code = {dep["path"]: dep["md5"] for dep in stage["deps"] if dep["path"].endswith(".py")}
        assert code == {path: hashlib.md5((ROOT / path).read_bytes()).hexdigest() for path in code}
        assert len(code) == 3


def test_status_is_clean_and_a_second_run_does_nothing(project):
    """Everything that a stage reads or writes is declared."""
    assert "up to date" in dvc(project, "status")
    assert ran(dvc(project, "repro")) == set()


def test_reordering_and_commenting_run_nothing(project):
    """What params.yaml means decides, not how it is written."""
    loaded = yaml.safe_load((project / "params.yaml").read_text())
    turned = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(loaded.items())
    }
    save(project, turned)
    with (project / "params.yaml").open("a") as file:
        file.write("# a remark\n")

    assert ran(dvc(project, "repro")) == set()


def test_a_new_pair_of_dumped_models_runs_its_own_stages_and_the_aggregates(project):
    """No model writes anything again, and the other pair is left alone."""
    params = copy.deepcopy(PARAMS | SMALL)
    params["pairs"] = {"other": {"small": "small", "tuned": "small", "large": "tuned"}} | params["pairs"]
    before = (project / "data/rollouts/duo/toy/tokens-0000.parquet").stat().st_mtime_ns
    save(project, params)

    subset = {"dump_large", "dump_small", "fuse", "route", "rollout", "dump_rollouts", "grade_policies"}
    assert ran(dvc(project, "repro")) == {f"{stage}@other" for stage in subset} | {
        "catalogue",
        "evaluate@toy",
        "compare",
        "scaling",
        "uncertainty",
        "report",
    }
    assert (project / "data/rollouts/duo/toy/tokens-0000.parquet").stat().st_mtime_ns == before
    assert "up to date" in dvc(project, "status")


def test_stages_that_do_not_read_each_other_run_side_by_side(project):
    """The page's lines run every stale stage once, and leave nothing to do."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["compute"]["batch_size"] = 3
    save(project, params)
    stages = ran(shell(project, blocks()[0]))

    assert {f"dump_solo@{model}" for model in params["models"]} <= stages
    assert "up to date" in dvc(project, "status")


def test_a_clone_that_pulls_runs_nothing(project, tmp_path):
    """What one machine pushed, another has, to the byte."""
    shutil.copy(ROOT / ".gitignore", project)
    push, pull = blocks()[1:]
    shell(project, push.replace("../store", str(tmp_path / "store")))
    git = "git -c user.name=me -c user.email=me@here -c commit.gpgsign=false"
    shell(project, f"git init --quiet && git add --all && {git} commit --quiet --message all")
    clone = tmp_path / "clone"
    shell(tmp_path, f"git clone --quiet {shlex.quote(str(project))} clone")
    assert not (clone / "data/dumps").exists()

    assert ran(shell(clone, pull)) == set()
    ours, theirs = (sorted((home / "data").rglob("*.parquet")) for home in (project, clone))
    assert len(ours) > 20
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
