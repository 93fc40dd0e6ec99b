"""The columns of every table: a sentence each, at hand without torch, and the files' names and types."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fsgen.analysis.scaling.law_intervals import IDENTIFIED_FROM
from fsgen.tables import lake, parquet, views
from fsgen.tables.schemas import dumps, scaling


@pytest.mark.parametrize("name", views.VIEWS)
def test_a_files_columns_are_those_of_its_schema(finished_home, name):
    """Names and types, in their order; no sentence in the file."""
    view = views.VIEWS[name]
    paths = sorted((finished_home / "data").glob(view.pattern))
    assert paths
    for path in paths:
        schema = pq.read_schema(path)
        types = [str(field.type).replace("element", "item") for field in schema]
        assert (schema.names, types) == (view.schema.names, [str(field.type) for field in view.schema])
        assert all(b"about" not in (field.metadata or {}) for field in schema)


@pytest.mark.parametrize("name", [*views.VIEWS, *views.JOINED])
def test_columns_of_a_view_have_types_and_sentences(finished, name):
    """As `fsgen tables` prints them, in the order in which the view has them."""
    rows = lake.columns(name)
    with lake.connect() as connection:
        described = [row[0] for row in connection.execute(f"describe {name}").fetchall()]

    assert [column for column, _, _ in rows] == described
    assert all(kind and about for _, kind, about in rows)


def test_sentences_are_comments_in_duckdb(finished, tmp_path, monkeypatch):
    """Of every view and column, also in a shell that `fsgen sql --init` prepares."""
    definitions = lake.definitions(Path("data").resolve())
    monkeypatch.chdir(tmp_path)
    comment = (
        "select comment from duckdb_columns() where table_name = 'token_pairs' and column_name = 'mismatch'"
    )
    silent = "select count(*) from duckdb_columns() where not internal and comment is null"
    with duckdb.connect() as bare:
        bare.execute(definitions)

        assert bare.sql(comment).fetchall() == [("whether small_id and large_id differ",)]
        assert bare.sql(silent).fetchall() == [(0,)]
        views_ = dict(bare.sql("select view_name, comment from duckdb_views() where not internal").fetchall())
    assert views_ == {name: view.about for name, view in (views.VIEWS | views.JOINED).items()}


def test_a_file_that_lacks_a_column_can_still_be_asked(tmp_path, monkeypatch):
    """Comments stand on what is there, so that tables of an earlier version answer."""
    monkeypatch.chdir(tmp_path)
    old = parquet.schema([("token_id", pa.int32(), "an id"), ("retired", pa.int32(), "no longer written")])
    parquet.write(tmp_path / "data/vocabulary/m.parquet", {"token_id": [1], "retired": [2]}, old)

    assert lake.query("from vocabulary").to_dicts() == [{"model": "m", "token_id": 1, "retired": 2}]


def test_a_view_is_described_without_torch():
    """Nor with what analyses import."""
    heavy = "{'torch', 'transformers', 'scipy', 'sklearn'}"
    code = f"import sys; from fsgen.tables import lake; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_layout_of_dumps_holds_names_and_types_and_no_sentence(monkeypatch):
    """It is a fact of every shard: another type makes it anew, a better sentence does not."""
    before = dumps.layout()
    assert set(before) == {
        "READS",
        "ROLLOUT_TOKENS",
        "ROLLOUT_TEXTS",
        "ROLLOUT_LOGITS",
        "STEPS",
        "TEXTS",
        "TOKENS",
    }
    assert before["STEPS"][0] == "role: string"

    reworded = parquet.schema([(field.name, field.type, "in other words") for field in dumps.STEPS])
    monkeypatch.setattr(dumps, "STEPS", reworded)
    assert dumps.layout() == before

    wider = parquet.schema([("role", pa.large_string(), "small, tuned or large")])
    monkeypatch.setattr(dumps, "STEPS", wider)
    assert dumps.layout() != before


def test_sentences_say_the_numbers_of_the_code():
    """Written out where a schema cannot import them."""
    fits, claims = (parquet.sentences(scaling.TABLES[name]) for name in ("scaling_fits", "scaling_claims"))

    assert f"at least {IDENTIFIED_FROM} distinct" in fits["identified"]
    assert claims["above"].endswith(f"above {scaling.CLAIMED_COF}")
