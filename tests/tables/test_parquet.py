"""Claims about parquet.py: what is written can be read, is the same every time, and is whole or absent.

Shape legend: N rows, K ids of the longest list.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsgen.errors import UserError
from fsgen.execution.shards import Shard, run_shards
from fsgen.tables import files, parquet

COLUMNS = parquet.schema(
    [
        ("name", pa.string(), "what the row is about"),
        ("ids", pa.list_(pa.int32()), "some ids"),
        ("logits", pa.list_(pa.float32()), "their logits"),
        ("entropy", pa.float32(), "entropy, nats"),
    ]
)
TABLE = {
    "entropy": [0.25, -0.0, 1e-30],
    "logits": [[1.5, -2.0], [], [float("-inf")]],
    "ids": [[3, 1], [], [7]],
    "name": ["a", "b", "a"],
}


@pytest.fixture(autouse=True)
def project_folder(tmp_path, monkeypatch):
    """Scratch is relative to the project's folder."""
    monkeypatch.chdir(tmp_path)


def make_shard(number, made, texts=2, fails=False):
    """A shard of two tables that notes in `made` when it is made."""

    def make(context):
        made.append(number)
        if fails:
            raise RuntimeError("killed")
        schema = parquet.schema([("number", pa.int32(), "the shard's number")])
        table = pa.table({"number": np.full(50, number, dtype=np.int32)}, schema=schema)
        return {"tokens": table, "texts": table[:1]}

    return Shard({"what": "test", "number": number}, {}, (1, "texts"), make, texts)


def execute(shards, bar):
    """One worker without models."""
    for shard in shards:
        yield shard, shard.make(None)


def bar_into(counted):
    return SimpleNamespace(advance=lambda done=0, tokens=0: counted.append(done))


def finish(folder, shards):
    return run_shards(Path(folder), shards, execute, bar_into([]))


def typed_table():
    """TABLE with the types of the schema, without its sentences."""
    return pa.table(TABLE).cast(pa.schema([(name, COLUMNS.field(name).type) for name in TABLE]))


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_the_same_table_gives_the_same_bytes():
    """From a mapping or a frame, with its columns in any order, under any name."""
    parquet.write(Path("one.parquet"), TABLE, COLUMNS)
    parquet.write(Path("deep/er/two.parquet"), TABLE, COLUMNS)
    parquet.write(Path("three.parquet"), pl.from_arrow(typed_table()), COLUMNS)

    one = Path("one.parquet").read_bytes()
    assert one == Path("deep/er/two.parquet").read_bytes() == Path("three.parquet").read_bytes()
    assert list(Path().rglob("*.part")) == []


def test_the_file_carries_names_and_types_and_its_version_and_no_sentence():
    """In the order of the schema, with its types, readable without this project."""
    parquet.write(Path("t.parquet"), TABLE, COLUMNS)

    schema = pq.read_schema("t.parquet")

    assert schema.names == ["name", "ids", "logits", "entropy"]
    assert [COLUMNS.field(n).type for n in schema.names] == [schema.field(n).type for n in schema.names]
    assert parquet.sentences(COLUMNS)["ids"] == "some ids"
    assert parquet.sentences(COLUMNS)["entropy"] == "entropy, nats"
    assert all(b"about" not in (schema.field(name).metadata or {}) for name in schema.names)
    assert schema.metadata[b"format_version"] == parquet.FORMAT_VERSION.encode()


def test_another_sentence_changes_no_byte():
    """Nor does a table that carries sentences itself, as one that comes out of a shard."""
    reworded = parquet.schema([(field.name, field.type, "in other words") for field in COLUMNS])
    parquet.write(Path("one.parquet"), TABLE, COLUMNS)
    parquet.write(Path("two.parquet"), TABLE, reworded)
    parquet.write(Path("three.parquet"), pa.table(TABLE, schema=COLUMNS), COLUMNS)

    one, two, three = (Path(f"{name}.parquet").read_bytes() for name in ("one", "two", "three"))
    assert one == two == three


def test_reading_gives_back_what_was_written():
    """Floats to the bit; files of a folder or a glob in the order of their names; columns as asked."""
    for name in ("b-0001", "b-0000", "a-0000"):
        parquet.write(Path(f"tables/{name}.parquet"), TABLE | {"name": [name] * 3}, COLUMNS)

    assert parquet.read("tables", ["name"])["name"].unique(maintain_order=True).to_list() == [
        "a-0000", "b-0000", "b-0001"
    ]  # fmt: skip
    rows = parquet.read("tables/b-*.parquet")
    assert rows["name"].unique(maintain_order=True).to_list() == ["b-0000", "b-0001"]
    assert rows["entropy"][:3].to_numpy().tobytes() == np.array(TABLE["entropy"], np.float32).tobytes()
    assert rows["ids"][:3].to_list() == TABLE["ids"]
    assert rows["logits"][:3].to_list() == TABLE["logits"]


def test_scanning_finds_the_rows_that_reading_finds():
    """Narrowed by a filter, in the same order and with the same types, lists too."""
    for name in ("b-0001", "b-0000", "a-0000"):
        parquet.write(Path(f"tables/{name}.parquet"), TABLE | {"name": [name] * 3}, COLUMNS)

    for source in ("tables", "tables/b-*.parquet", "tables/a-0000.parquet"):
        assert parquet.scan(source).collect().equals(parquet.read(source))
    some = parquet.scan("tables").filter(pl.col("name") > "a-0000", entropy=TABLE["entropy"][1])
    assert some.collect().equals(parquet.read("tables/b-*.parquet").filter(entropy=TABLE["entropy"][1]))


def test_shards_are_named_by_their_numbers():
    """In order, of one kind; a folder without any is a complaint."""
    for name in ("texts-0000", "tokens-0010", "tokens-0002"):
        parquet.write(Path(f"tables/{name}.parquet"), TABLE, COLUMNS)

    assert parquet.shards(Path("tables"), "tokens") == ["0002", "0010"]
    with pytest.raises(UserError, match=r"^There is no table at tables/reads-\*\.parquet; [^.]*\.$"):
        parquet.shards(Path("tables"), "reads")


@pytest.mark.parametrize("look", [parquet.read, parquet.scan])
def test_another_format_version_is_refused(look, monkeypatch):
    """One sentence names the file and both versions, and so does one for a file of no version."""
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "FORMAT_VERSION", "99")
        parquet.write(Path("new.parquet"), TABLE, parquet.schema([("name", pa.string(), "a name")]))
    pq.write_table(pa.table({"name": ["a"]}), "alien.parquet")

    with pytest.raises(UserError, match=r"^new\.parquet has format version 99, this fsgen reads 2; [^.]*\.$"):
        look("new.parquet")
    with pytest.raises(UserError, match=r"^alien\.parquet has format version none"):
        look("alien.parquet")


def test_a_truncated_file_is_refused():
    """However much of it is left, alone or among whole ones."""
    parquet.write(Path("t/a.parquet"), TABLE, COLUMNS)
    parquet.write(Path("t/b.parquet"), TABLE, COLUMNS)
    whole = Path("t/b.parquet").read_bytes()

    for length in (0, 1, 4, 8, 12, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        Path("t/b.parquet").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"^t/b\.parquet is not a whole Parquet file; [^.]*\.$"):
            parquet.read("t")


@pytest.mark.parametrize("source", ["t.parquet", "empty", "t/tokens-*.parquet"])
def test_a_missing_table_is_a_complaint(source):
    """A file, a folder without tables and a glob without matches are named."""
    Path("empty").mkdir()

    with pytest.raises(UserError) as caught:
        parquet.read(source)

    assert str(caught.value) == f"There is no table at {source}; run 'dvc repro', which writes it."


@given(
    st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=6), max_size=8),
    st.integers(0, 3),
    st.sampled_from([(np.int32, -1), (np.float32, -np.inf)]),
)
def test_padded_rows_and_lists_turn_into_each_other(rows, spare, kind):
    """Lengths, values and types survive, empty rows and no rows too; spare padding goes."""
    dtype, fill = kind
    width = max(map(len, rows), default=0)
    values_NK = np.full((len(rows), width + spare), fill, dtype=dtype)
    for row, values in enumerate(rows):
        values_NK[row, : len(values)] = values
    lengths_N = np.array([len(row) for row in rows], dtype=int)
    held_NK = np.arange(width + spare) < lengths_N[:, None]

    lists = parquet.to_list_array(values_NK, held_NK)

    assert [np.array(row, dtype=dtype).tolist() for row in rows] == lists.to_pylist()
    back_NK = parquet.pad_lists(pl.Series(lists), fill)
    assert back_NK.dtype == dtype
    assert np.array_equal(values_NK[:, :width], back_NK)


def test_a_folder_appears_only_when_its_block_ends():
    """Nothing is to be seen before, then all of it, in place of an older one."""
    out = Path("data/new")
    for text in ("old", "new"):
        with files.atomic_folder(out) as folder:
            (folder / f"{text}.txt").write_text(text)
            assert not (out / f"{text}.txt").exists()

    assert files_of(out) == {"new.txt": b"new"}


def test_a_folder_whose_block_raises_does_not_appear():
    """An older one stays, and what was half-written is not in the next."""
    with pytest.raises(RuntimeError, match="killed"):
        fill_and_break("data/out")
    assert not Path("data/out").exists()

    with files.atomic_folder(Path("data/out")) as folder:
        (folder / "whole.txt").write_text("whole")
    with pytest.raises(RuntimeError, match="killed"):
        fill_and_break("data/out")
    assert files_of("data/out") == {"whole.txt": b"whole"}


def fill_and_break(out):
    with files.atomic_folder(Path(out)) as folder:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("killed")


def test_shards_are_numbered_in_their_order_a_file_a_table():
    """Shard i's table t is `t-<i>.parquet`, whatever its facts."""
    made = []

    count = finish("out", [make_shard(number, made) for number in (9, 4, 7)])

    assert count == 3
    assert made == [9, 4, 7]
    names = [f"{table}-000{i}.parquet" for table in ("texts", "tokens") for i in range(3)]
    assert names == sorted(files_of("out"))
    assert parquet.read("out/texts-*.parquet")["number"].to_list() == [9, 4, 7]
    assert len(parquet.read("out/tokens-*.parquet")) == 150


def test_finished_shards_are_linked_and_not_made_again():
    """A second run makes none, tells the bar of their texts and shares their bytes on disk."""
    made, counted = [], []
    shards = [make_shard(number, made, texts=number) for number in (5, 3)]
    finish("one", shards)

    count = run_shards(Path("two"), shards, execute, bar_into(counted))

    assert count == 0
    assert made == [5, 3]
    assert counted == [8]
    for path in Path("two").iterdir():
        assert path.samefile(Path("one") / path.name)


def test_a_changed_fact_or_one_more_shard_makes_only_what_is_new():
    """Facts are all that is asked; their order is not."""
    made = []
    finish("one", [make_shard(1, made), make_shard(2, made)])

    assert finish("two", [make_shard(1, made), make_shard(8, made), make_shard(3, made)]) == 2
    assert made == [1, 2, 8, 3]
    assert parquet.fingerprint({"a": 1, "b": 2}) == parquet.fingerprint({"b": 2, "a": 1})
    assert parquet.fingerprint({"a": 1}) != parquet.fingerprint({"a": 2})


def test_a_format_version_makes_every_shard_anew(monkeypatch):
    """It is a fact of every fingerprint."""
    before = parquet.fingerprint({"a": 1})
    monkeypatch.setattr(parquet, "FORMAT_VERSION", "99")

    assert before != parquet.fingerprint({"a": 1})


def test_an_interrupted_run_goes_on_where_it_stopped():
    """The shard that broke leaves nothing finished, the next run makes it and those after it alone."""
    made = []
    torn = [make_shard(1, made), make_shard(2, made, fails=True), make_shard(3, made)]
    with pytest.raises(RuntimeError, match="killed"), files.atomic_folder(Path("data/out")) as folder:
        finish(folder, torn)
    assert not Path("data/out").exists()
    assert not (files.SCRATCH / "shards" / parquet.fingerprint(torn[1].fingerprint_facts)).exists()

    with files.atomic_folder(Path("data/out")) as folder:
        count = finish(folder, [make_shard(number, made) for number in (1, 2, 3)])

    assert count == 2
    assert made == [1, 2, 2, 3]


def test_a_resumed_run_leaves_the_bytes_of_an_uninterrupted_one(monkeypatch):
    """Also where the break came while a table was being written."""
    made = []
    shards = [make_shard(number, made) for number in (1, 2, 3)]
    finish("straight", shards)
    monkeypatch.setattr(files, "SCRATCH", Path("elsewhere"))
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", half_written_after(3))
        with pytest.raises(OSError, match="disk full"):
            finish("torn", shards)

    count = finish("resumed", shards)

    assert count == 2
    assert files_of("straight") == files_of("resumed")


def half_written_after(tables):
    """A stand-in for the Parquet writer that breaks off in the middle of a later table."""
    left, whole = [tables], pq.write_table

    def write_table(table, path, **how):
        whole(table, path, **how)
        left[0] -= 1
        if left[0] < 0:
            path.write_bytes(path.read_bytes()[:40])
            raise OSError("disk full")

    return write_table


def test_a_truncated_shard_is_named_and_made_again(capsys):
    """However it got short, a resumed run does not take it for whole."""
    made = []
    shards = [make_shard(number, made) for number in (1, 2)]
    finish("one", shards)
    home = files.SCRATCH / "shards" / parquet.fingerprint(shards[1].fingerprint_facts)
    whole = (home / "tokens.parquet").read_bytes()
    (home / "tokens.parquet").unlink()  # the link in `one` keeps its bytes
    (home / "tokens.parquet").write_bytes(whole[:-20])

    assert finish("two", shards) == 1

    assert made == [1, 2, 2]
    message = capsys.readouterr().err
    assert message == f"fsgen: {home}/tokens.parquet is not a whole Parquet file; making its shard again\n"
    assert files_of("one") == files_of("two")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device without room")
def test_a_full_disk_is_one_sentence_and_leaves_nothing():
    """The file, its size and the remedy are named; no part of it stays."""
    Path("t.parquet.part").symlink_to("/dev/full")

    with pytest.raises(
        UserError, match=r"^The disk is full \(t\.parquet needs about \d+ MiB\); free [^.]*\.$"
    ):
        parquet.write(Path("t.parquet"), TABLE, COLUMNS)

    assert list(Path().iterdir()) == []


def test_a_shard_that_cannot_be_written_ends_the_run(monkeypatch):
    """Though another thread writes it; what was finished before stays finished."""
    made = []
    monkeypatch.setattr(pq, "write_table", half_written_after(2))

    with pytest.raises(OSError, match="disk full"):
        finish("out", [make_shard(number, made) for number in (1, 2, 3)])

    homes = [home for home in (files.SCRATCH / "shards").iterdir() if home.suffix != ".part"]
    assert len(homes) == 1
