"""Claims about remote.py: a finished shard is not made again on a machine with another disk."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import fsspec.core
import numpy as np
import pyarrow as pa
import pytest

from fsgen.errors import UserError
from fsgen.execution.shards import Shard, find_reusable, run_shards
from fsgen.tables import parquet

SCHEMA = parquet.schema([("number", pa.int32(), "the shard's number")])


def shard_of(number: int, made: list[int], parts: dict | None = None) -> Shard:
    """A shard of two tables that notes in `made` when it is made."""

    def make(context):
        made.append(number)
        table = pa.table({"number": np.full(50, number, dtype=np.int32)}, schema=SCHEMA)
        return {"tokens": table, "texts": table[:1]}

    return Shard({"what": "test", "number": number}, {}, (1, "texts"), make, 1, parts or {})


def finish(shards: list[Shard]) -> dict[str, bytes]:
    """What a stage leaves that has these shards."""

    def execute(missing, bar):
        for shard in missing:
            yield shard, shard.make(None)

    run_shards(Path("out"), shards, execute, SimpleNamespace(advance=lambda done=0, tokens=0: None))
    return {path.name: path.read_bytes() for path in sorted(Path("out").iterdir())}


@pytest.fixture(params=["folder", "s3"])
def remote_cache(request, tmp_path, monkeypatch):
    """A remote cache in a local folder or in S3; machines are folders, and this is the first."""
    url = str(tmp_path / "remote_cache")
    if request.param == "s3":
        url = f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    monkeypatch.setenv("FSGEN_SCRATCH", url)
    move_to(tmp_path / "first", monkeypatch)
    return url


def move_to(machine: Path, monkeypatch) -> None:
    machine.mkdir()
    monkeypatch.chdir(machine)


def test_a_shard_of_another_machine_is_fetched(remote_cache, tmp_path, monkeypatch):
    """The second machine makes only what the first has not, and has the same bytes."""
    made = []
    first = finish([shard_of(1, made), shard_of(2, made)])
    move_to(tmp_path / "second", monkeypatch)

    second = finish([shard_of(1, made), shard_of(2, made), shard_of(3, made)])

    assert made == [1, 2, 3]
    assert first.items() <= second.items()
    assert len(second) == 6


def test_a_damaged_shard_is_fetched_anew(remote_cache, capfd):
    """What is whole in the remote cache need not be made."""
    made = []
    before = finish([shard_of(1, made)])
    (damaged,) = Path("scratch/shards").glob("*/tokens.parquet")
    damaged.unlink()  # the output folder holds a link to its bytes
    damaged.write_bytes(b"PAR1 torn")

    shutil.rmtree("out")

    assert finish([shard_of(1, made)]) == before
    assert made == [1]
    assert "is not a whole Parquet file" in capfd.readouterr().err


def test_a_shard_whose_upload_was_cut_short_is_made_again(tmp_path, monkeypatch):
    """Its list of files is put last."""
    made, remote_cache = [], tmp_path / "remote_cache"
    monkeypatch.setenv("FSGEN_SCRATCH", str(remote_cache))
    move_to(tmp_path / "first", monkeypatch)
    finish([shard_of(1, made)])
    (names,) = remote_cache.rglob("whole.json")
    assert json.loads(names.read_text()) == ["texts.parquet", "tokens.parquet"]
    names.unlink()
    move_to(tmp_path / "second", monkeypatch)

    finish([shard_of(1, made)])

    assert made == [1, 1]
    assert names.exists()


def test_parts_of_another_machines_shard_are_found(remote_cache, tmp_path, monkeypatch):
    """Its note comes first, and the shard itself with the question."""
    made, parts = [], {"a": [1], "b": [2]}
    finish([shard_of(1, made, parts)])
    move_to(tmp_path / "second", monkeypatch)

    reusable = find_reusable(shard_of(1, made, {"b": [2], "c": [3]}))

    assert reusable.parts == ["b"]
    assert sorted(path.name for path in reusable.home.iterdir()) == ["texts.parquet", "tokens.parquet"]


@pytest.mark.parametrize("url", ["nowhere://there", "s3://no-such-bucket-of-ours/there"])
def test_a_depot_that_cannot_be_reached_is_one_sentence(url, s3, tmp_path, monkeypatch):
    """An unknown protocol, and a bucket that is not there."""
    monkeypatch.setenv("FSGEN_SCRATCH", url)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(
        UserError, match=f"FSGEN_SCRATCH is '{url}', which should be a folder that fsspec can"
    ):
        finish([shard_of(1, [])])


def leave_notes(tmp_path, monkeypatch) -> Shard:
    """A shard that wants a part more than the one whose note is in the remote cache, on another machine."""
    finish([shard_of(1, [], {"a": [1]})])
    move_to(tmp_path / "second", monkeypatch)
    wanted = shard_of(1, [], {"a": [1], "b": [2]})
    wanted.manifest.parent.mkdir(parents=True)
    return wanted


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device without room")
def test_a_full_disk_here_is_not_the_depots_fault(remote_cache, tmp_path, monkeypatch):
    """The sentence is that of a shard which finds no room, and names what was being fetched."""
    wanted = leave_notes(tmp_path, monkeypatch)
    note = shard_of(1, [], {"a": [1]}).manifest.with_suffix(".part")
    note.symlink_to("/dev/full")

    with pytest.raises(UserError, match=rf"^The disk is full \(fetching .* into {note}\); free"):
        find_reusable(wanted)


def test_a_full_shared_folder_is_named_by_what_was_written(tmp_path, monkeypatch):
    """Its disk is another than this machine's."""
    monkeypatch.setenv("FSGEN_SCRATCH", str(tmp_path / "remote_cache"))
    move_to(tmp_path / "first", monkeypatch)
    full = tmp_path / "remote_cache" / "shards" / shard_of(1, []).home.name / "texts.parquet"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")

    with pytest.raises(UserError, match=rf"^The disk is full \(writing {full}\); free some space"):
        finish([shard_of(1, [])])


def test_scratch_that_takes_nothing_is_not_the_depots_fault(remote_cache, tmp_path, monkeypatch):
    """A file stands where the shard's folder would."""
    finish([shard_of(1, [])])
    move_to(tmp_path / "second", monkeypatch)
    Path("scratch").mkdir()
    Path("scratch/shards").write_text("")

    with pytest.raises(
        UserError, match=r"^scratch/ should take what FSGEN_SCRATCH holds, and writing scratch/shards/.* got "
    ):
        finish([shard_of(1, [])])


def test_a_file_that_the_depot_lacks_is_named(remote_cache, tmp_path, monkeypatch):
    """With what was being done and where to."""
    finish([shard_of(1, [])])
    files, root = fsspec.core.url_to_fs(remote_cache)
    home = shard_of(1, []).home
    files.rm(f"{root}/shards/{home.name}/tokens.parquet")
    move_to(tmp_path / "second", monkeypatch)

    with pytest.raises(
        UserError,
        match=rf"^FSGEN_SCRATCH is '{remote_cache}', .*, and fetching .*/tokens\.parquet into "
        rf"{home}\.part/tokens\.parquet got FileNotFoundError: ",
    ):
        finish([shard_of(1, [])])
