"""Tests of `ray_executor`: shards spread over Ray actors are those that one process makes."""

import copy
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pyarrow as pa
import pytest

from fsgen.config.schema import Settings
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.decoding.rollout import rollout
from fsgen.errors import UserError
from fsgen.execution import console, executors, ray_executor, shards
from fsgen.models import loading
from tests.conftest import PARAMS, describe_all, random_world, run_pair, write_params

pytest.importorskip("ray", reason="needs the extra fsgen[ray]")
POLICIES = ["oracle+always", "oracle+entropy@20", "contrastive+random@20", "proxy+never"]
STAGES = {
    "data/dumps/large": lambda loaded: dump_solo.dump_solo(loaded, "large"),
    "data/teacher_forced/large/duo": lambda loaded: dump_teacher_forced.dump_large(loaded, "duo"),
    "data/rollouts/duo": lambda loaded: rollout.rollout(loaded, "duo"),
}


def settings_of(**compute) -> Settings:
    """A few policies, with models run so."""
    params = copy.deepcopy(PARAMS) | {"policies": POLICIES}
    params["compute"] |= compute
    return write_params(params)


@pytest.fixture(scope="module")
def address():
    """A Ray cluster of one machine, this one, that claims four cards; RAY_ADDRESS leads there meanwhile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--node-ip-address=127.0.0.1", f"--port={where.split(':')[1]}", "--num-cpus=4", "--num-gpus=4"]
    options += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", where)
        patch.setenv("RAY_AUTH_MODE", "disabled")  # whether or not a cluster here once left a token at home
        head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 600  # a cluster starts slowly while other work runs
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", int(where.split(":")[1])), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield where
        head.terminate()
        head.wait(60)


@pytest.fixture(scope="module")
def local(tiny_checkpoints, tmp_path_factory):
    """A project folder in which a pair of random models has run in one process."""
    home = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        random_world(tiny_checkpoints)
        loaded = settings_of()
        describe_all(loaded)
        run_pair(loaded)
    return home


@pytest.fixture
def again(local, tmp_path, monkeypatch):
    """The same folder without anything that the stages in question left."""
    home = tmp_path / "again"
    shutil.copytree(local, home, symlinks=True, ignore=shutil.ignore_patterns("scratch"))
    for folder in STAGES:
        shutil.rmtree(home / folder)
    monkeypatch.chdir(home)
    return home


def contents(home: Path) -> dict[str, bytes]:
    """What the stages left, file by file."""
    files = (path for folder in STAGES for path in sorted((home / folder).rglob("*.parquet")))
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


def test_a_cluster_leaves_the_bytes_of_one_process(local, again, address):
    """Three stages of two or three shards each, on two actors."""
    loaded = settings_of(executor="ray", replicas=2)

    for stage in STAGES.values():
        stage(loaded)

    assert len(contents(local)) == 3 * 2 + 3 + 2 * 3
    assert contents(again) == contents(local)


def kill_one_at_work(killed: list[int]) -> None:
    """Kill the first actor that is seen to make a shard."""
    deadline = time.monotonic() + 600  # a cluster starts slowly while other work runs
    while not killed and time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "cmdline").read_bytes().startswith(b"ray::Replica.make"):
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed.append(int(folder.name))
                    return
            except OSError:
                continue  # it ended between two looks


@pytest.mark.skipif(not Path("/proc").exists(), reason="actors are found in /proc")
def test_a_killed_actor_changes_nothing(local, again, address):
    """The only one; Ray starts it anew and repeats its shard."""
    loaded, killed = settings_of(executor="ray", replicas=1), []
    for folder in ("data/dumps/large", "data/teacher_forced/large/duo"):
        shutil.copytree(local / folder, folder)
    killer = threading.Thread(target=kill_one_at_work, args=[killed])
    killer.start()

    STAGES["data/rollouts/duo"](loaded)

    killer.join()
    assert len(killed) == 1
    assert contents(again) == contents(local)


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_finished_shards_load_no_model(engine, local, monkeypatch):
    """An engine has nothing to do where scratch holds everything, and asks no cluster for it."""
    monkeypatch.chdir(local)
    before = contents(local)
    monkeypatch.setattr(loading, "load_weights", None)
    monkeypatch.setattr(ray_executor, "_connect", None)

    for stage in STAGES.values():
        stage(settings_of(executor=engine))

    assert contents(local) == before


def run_on_actors(make, count: int = 1, **compute) -> list:
    """What actors on the cluster make of some shards without models."""
    wanted = [shards.Shard({"what": f"test {i}"}, {}, (1, "texts"), make, 1) for i in range(count)]
    with (
        executors.open_executor(
            settings_of(executor="ray", **compute).compute, loading.load_checked
        ) as execute,
        console.progress(count, "texts", "") as bar,
    ):
        return [*execute(wanted, bar)]


def test_a_shard_that_ends_every_actor_is_given_up(again, address):
    """After as many retries as Ray is configured to make."""
    seen = Path.cwd() / "tries"

    def make(context):
        with seen.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UserError, match=r"A replica of .* ended more often than the 4 times that Ray"):
        run_on_actors(make)
    assert len(seen.read_text()) == ray_executor.RETRIES + 1


def test_an_actor_that_cannot_start_is_told_apart(again, address, monkeypatch):
    """As on a node without fsgen: nothing was tried twice, and memory has no part in it."""
    here = types.ModuleType("only_here")
    here.Replica = type("Replica", (ray_executor.Replica,), {"__module__": "only_here"})
    monkeypatch.setitem(sys.modules, "only_here", here)
    monkeypatch.setattr(ray_executor, "Replica", here.Replica)

    with pytest.raises(UserError) as caught:
        run_on_actors(None)

    assert "should start on any node, and got ModuleNotFoundError: No module named" in str(caught.value)
    assert "'only_here'; install fsgen on every node" in str(caught.value)


def test_a_complaint_on_an_actor_is_the_stages_own(again, address):
    """One sentence, without Ray's stack."""

    def make(context):
        raise UserError("large produced NaN.")

    with pytest.raises(UserError, match=r"^large produced NaN\.$"):
        run_on_actors(make)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_actor_computes_with_as_many_threads_as_the_stage(threads, again, address):
    """Since sums over other parts would round otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ((_, tables),) = run_on_actors(
            lambda context: {"reported": pa.table({"reported": [torch.get_num_threads()]})}
        )
    finally:
        torch.set_num_threads(before)

    assert tables["reported"]["reported"].to_pylist() == [threads]


def test_an_unreachable_cluster_is_one_sentence(again, monkeypatch):
    """Before Ray waits for it."""
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", where)

        with pytest.raises(UserError, match=f"RAY_ADDRESS is '{where}', but nothing answers there"):
            run_on_actors(None)


def test_a_cluster_that_wants_a_token_is_one_sentence(again, address, monkeypatch):
    """Ray, which says it so and only after twenty seconds, shows none to an address that was given."""
    import ray

    def refuse(**options):
        raise ConnectionError(f"Failed to connect to Ray cluster at {options['address']}")

    monkeypatch.setattr(ray, "init", refuse)

    with pytest.raises(UserError, match=rf"^RAY_ADDRESS is '{address}', .* {address}; .*MODE=token"):
        run_on_actors(None)


@pytest.mark.parametrize(
    ("nodes", "cards", "places"),
    [
        ([{"CPU": 2.0}], 0, 2),
        ([{"CPU": 2.0}, {"CPU": 3.0, "GPU": 1.0}], 0, 5),
        ([{"CPU": 8.0, "GPU": 4.0}], 1, 4),
        ([{"CPU": 8.0, "GPU": 4.0}], 3, 1),  # the fourth card is left
        ([{"CPU": 2.0, "GPU": 8.0}], 1, 2),  # cores run out first
        ([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}], 2, 0),  # no actor lies on two nodes
        ([{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 5.0}], 2, 3),
        ([{"GPU": 4.0}, {"CPU": 0.5}], 0, 0),  # a head that computes nothing has no core at all
        ([], 0, 0),
    ],
)  # fmt: skip
def test_places_are_counted_node_by_node(nodes, cards, places):
    """A place is a core and the cards of an actor, on one node; the dead have none."""
    reported = [{"Alive": True, "Resources": held} for held in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 64.0}}

    assert ray_executor.count_places([*reported, dead], cards) == places


@pytest.mark.parametrize(("replicas", "cards", "held"), [(5, 0, 4), (3, 2, 2)])
def test_more_actors_than_the_nodes_hold_are_refused(replicas, cards, held, again, address):
    """Even for a single shard; Ray would wait for ever."""
    with pytest.raises(UserError, match=rf"the {replicas} actors .* and {cards} cards each, .* for {held};"):
        run_on_actors(None, replicas=replicas, gpus_per_replica=cards)


def test_every_actor_sees_cards_of_its_own(again, address):
    """As many as asked for; the cards are claimed, since what is held here is who may see which."""
    met = Path.cwd()

    def make(context):
        (met / str(os.getpid())).mkdir()
        deadline = time.monotonic() + 60
        while sum(path.name.isdigit() for path in met.iterdir()) < 2:
            assert time.monotonic() < deadline, "one actor alone is at work"
            time.sleep(0.05)
        return {"reported": pa.table({"reported": [os.environ["CUDA_VISIBLE_DEVICES"]]})}

    made = run_on_actors(make, count=2, replicas=2, gpus_per_replica=2)

    seen = [tables["reported"]["reported"][0].as_py().split(",") for _, tables in made]
    assert [len(cards) for cards in seen] == [2, 2]
    assert sorted(seen[0] + seen[1]) == ["0", "1", "2", "3"]


def test_a_cluster_starts_here_where_none_is_named(again, address, monkeypatch):
    """Another than the one that was started last, and it ends with the stage."""
    import ray

    def make(context):
        where = ray.get_runtime_context().gcs_address  # of which Ray rewrites the host
        return {"reported": pa.table({"reported": [where.rpartition(":")[2]]})}

    monkeypatch.delenv("RAY_ADDRESS")

    ((_, tables),) = run_on_actors(make)

    assert tables["reported"]["reported"].to_pylist() != [address.rpartition(":")[2]]
    assert not ray.is_initialized()


def test_a_node_without_memory_is_one_sentence(again, address, monkeypatch):
    """Of Ray, which ends an actor before Linux does."""
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")

    with pytest.raises(UserError, match="for want of memory first"):
        run_on_actors(lambda context: time.sleep(60))


def test_without_ray_the_remedy_is_named(again, monkeypatch):
    """The extra is optional."""
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(UserError, match=r"pip install -e '.\[ray\]'"):
        run_on_actors(None)
