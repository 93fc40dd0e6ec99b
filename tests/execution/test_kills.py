"""Killed at any moment, a GPU stage goes on where it stopped and leaves the bytes of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fsgen.collaboration import fuse, route
from fsgen.config.load import load_settings
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.decoding.rollout import rollout
from fsgen.execution import console, shards
from fsgen.execution.shards import _write_shard
from tests.conftest import PARAMS, describe_all, random_world, write_params

STAGES = {
    "dump_solo": ("large", "dumps/large"),
    "dump_large": ("duo", "teacher_forced/large/duo"),
    "dump_small": ("duo", "teacher_forced/small/duo"),
    "rollout": ("duo", "rollouts/duo"),
}
ROOMS = {
    "dump_solo": dump_solo.dump_solo,
    "dump_large": dump_teacher_forced.dump_large,
    "dump_small": dump_teacher_forced.dump_small,
}
ROOMS["rollout"] = rollout.rollout
POLICIES = {"policies": ["oracle+entropy@20", "contrastive+always", "proxy+margin@10"]}


class Moments:
    """Counts what a stage does, in models and on disk, and ends the process in the midst of one such step."""

    def __init__(self, fatal: int | None = None):
        self.count, self.fatal = 0, fatal
        self.honest = {"write_table": pq.write_table, "link": os.link, "replace": Path.replace}

    def pass_by(self) -> bool:
        self.count += 1
        return self.count == self.fatal

    def install(self) -> None:
        advance = console.Bar.advance

        def advanced(bar, done=0, tokens=0):
            if self.pass_by():
                die()
            advance(bar, done, tokens)

        def written(table, where, **how):
            self.honest["write_table"](table, where, **how)
            if self.pass_by():
                where.write_bytes(where.read_bytes()[: where.stat().st_size // 2])
                die()

        def linked(*ends):
            if self.pass_by():
                die()
            self.honest["link"](*ends)

        def replaced(source, target):
            if self.pass_by():
                die()
            return self.honest["replace"](source, target)

        console.Bar.advance, pq.write_table, os.link, Path.replace = advanced, written, linked, replaced


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_to_moment(stage: str, moment: int) -> None:
    """What the child process runs: the stage, until it is killed or ends."""
    Moments(moment).install()
    ROOMS[stage](load_settings(), STAGES[stage][0])


def kill(stage: str, moment: int) -> int:
    """Run the stage in a process of its own until this moment; its return code."""
    code = f"from tests.execution import test_kills; test_kills.run_to_moment({stage!r}, {moment})"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


@pytest.fixture(scope="module")
def undisturbed(tiny_checkpoints, tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """A world in which every stage has run, and the number of moments of each GPU stage."""
    home = tmp_path_factory.mktemp("undisturbed")
    moments = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        random_world(tiny_checkpoints)
        loaded = write_params(PARAMS | POLICIES)
        describe_all(loaded)
        for name in ("small", "tuned"):
            dump_solo.dump_solo(loaded, name)
        for stage, (name, _) in STAGES.items():
            if stage == "rollout":
                fuse.fuse_pair(loaded, "duo")
                route.route_pair(loaded, "duo")
            moments[stage] = count_moments(stage, loaded, name, patch)
    return home, moments


def count_moments(stage, loaded, name, patch) -> int:
    counter = Moments()
    with patch.context() as inner:
        for position, attribute in (
            (console.Bar, "advance"),
            (pq, "write_table"),
            (os, "link"),
            (Path, "replace"),
        ):
            inner.setattr(
                position, attribute, getattr(position, attribute)
            )  # so that the context puts it back
        counter.install()
        ROOMS[stage](loaded, name)
    return counter.count


def bytes_under(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", SEEDS)
def test_two_kills_and_a_rerun_leave_the_same_bytes(stage, seed, undisturbed, tmp_path, monkeypatch, capsys):
    """Nothing half-written is to be seen in between, and finished shards are not made again."""
    whole, moments = undisturbed
    name, output = STAGES[stage]
    world = tmp_path / "world"
    shutil.copytree(whole, world, symlinks=True)
    monkeypatch.chdir(world)
    shutil.rmtree(f"data/{output}")
    shutil.rmtree("scratch")
    chance = random.Random(f"{stage} {seed}")

    for _ in range(2):
        code = kill(stage, chance.randint(1, moments[stage]))
        assert Path("data", output).exists() == (code == 0)
        if Path("data", output).exists():
            assert bytes_under(Path("data", output)) == bytes_under(whole / "data" / output)

    kept = {home.name for home in Path("scratch/shards").glob("*") if home.suffix != ".part"}
    made = []
    honest = _write_shard
    monkeypatch.setattr(
        shards, "_write_shard", lambda shard, tables: (made.append(shard.home.name), honest(shard, tables))
    )
    ROOMS[stage](load_settings(), name)
    assert bytes_under(Path("data", output)) == bytes_under(whole / "data" / output)
    assert not kept & set(made)
    assert len(kept | set(made)) == len(list(Path("scratch/shards").iterdir()))
    assert not list(Path("scratch/parts").iterdir())
