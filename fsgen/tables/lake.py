"""SQL over everything under data/: one DuckDB view a table, over files that are only read.

`data` is a folder's Path, or the URL of one on object storage (s3://bucket/data), read through fsspec.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb
import polars as pl

from fsgen.errors import UserError, lookup_or_suggest
from fsgen.tables import parquet, renamed
from fsgen.tables.views import JOINED, VIEWS

# how DuckDB says it: in expressions, in EXCLUDE and REPLACE, in USING, in UNPIVOT; after an alias
_MISSING_COLUMN = r'^Binder Error: .*?[Cc]olumn "(\w+)" |does not have a column named "(\w+)"'
MEMORY = "4GB"  # of a query, beyond which DuckDB works on disk: the tables may be far larger than memory


def connect(data: Path | str = Path("data")) -> duckdb.DuckDBPyConnection:
    """An in-memory database with a view for every table that has files; the files are only read.

    Views and columns carry their sentences as comments, see duckdb_columns(). Raises UserError where `data`
    is a URL that cannot be reached.
    """
    aside = f"{tempfile.gettempdir()}/fsgen-{os.getpid()}"
    connection = duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": aside})
    if isinstance(data, str):
        connection.register_filesystem(_reach(data)[0])
    connection.execute("set preserve_insertion_order = true")
    connection.execute(_view_definitions(data))
    connection.execute(_comments(connection))
    return connection


def definitions(data: Path | str = Path("data")) -> str:
    """The SQL that makes every view whose tables are there, plain ones before joined ones, with comments."""
    with contextlib.closing(connect(data)) as connection:
        return _view_definitions(data) + _comments(connection)


def _view_definitions(data: Path | str) -> str:
    return "".join(f"{definition(name, data)};\n" for name in _views_with_tables(data))


def _comments(connection: duckdb.DuckDBPyConnection) -> str:
    """The SQL that attaches the sentences of the views, and of those of their columns that the files hold."""
    present = connection.execute(
        "select table_name, column_name from duckdb_columns() where not internal "
        "order by table_oid, column_index"
    ).fetchall()
    views = dict.fromkeys(view for view, _ in present)
    comments = [f"comment on view {view} is {_quoted((VIEWS | JOINED)[view].about)};\n" for view in views]
    abouts = {view: _sentences(view) for view in views}
    comments += [
        f'comment on column {view}."{column}" is {_quoted(abouts[view][column])};\n'
        for view, column in present
        if column in abouts[view]
    ]
    return "".join(comments)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sentences(name: str) -> dict[str, str]:
    """Column of a view to its meaning, those read from the path first."""
    if name in JOINED:
        return JOINED[name].columns
    view = VIEWS[name]
    keys = {column: f"{column}, a key of params.yaml" for column in view.path_columns}
    return keys | parquet.sentences(view.schema)


def _views_with_tables(data: Path | str) -> list[str]:
    """Names of the plain views that have files, then of the joined ones over these."""
    find = _finder(data)
    there = [name for name, view in VIEWS.items() if find(view.pattern)]
    return there + [name for name, view in JOINED.items() if set(there).issuperset(view.over)]


def definition(name: str, data: Path | str = Path("data")) -> str:
    """The SQL that makes a view."""
    if name in JOINED:
        return f"create or replace view {name} as {' '.join(JOINED[name].sql.split())}"
    view = VIEWS[name]
    columns = "".join(
        f"replace(split_part(filename, '/', {index}), '.parquet', '') as {column}, "
        for column, index in view.path_columns.items()
    )
    pattern = f"{data}/{view.pattern}".replace("'", "''")
    source = f"read_parquet('{pattern}', filename = true)"
    return f"create or replace view {name} as select {columns}* exclude (filename) from {source}"


def columns(name: str, data: Path = Path("data")) -> list[tuple[str, str, str]]:
    """Name, type and meaning of a view's columns; those read from the path first.

    Raises UserError where there is no such view, or no table of it yet.
    """
    if name in renamed.VIEWS:
        raise UserError(renamed.explain("view", name, renamed.VIEWS[name]))
    lookup_or_suggest(VIEWS | JOINED, name, "the views")
    abouts = _sentences(name)
    if name in JOINED:
        types = query(f"select column_name, lower(column_type) from (describe {name})", data)
        types = dict(types.iter_rows())
        return [(column, types[column], about) for column, about in abouts.items()]
    if name not in _views_with_tables(data):
        raise UserError(_tell_absence(name, data))
    types = dict.fromkeys(VIEWS[name].path_columns, "string")
    types |= {field.name: str(field.type) for field in VIEWS[name].schema}
    return [(column, types[column], about) for column, about in abouts.items()]


def query(sql: str, data: Path | str = Path("data"), values: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Result of one query; `values` are what getvariable() finds in it.

    Raises UserError with DuckDB's own first line where the query fails, where it would write, and where it
    asks a view that has no tables yet.
    """
    connection = connect(data)
    for name, value in (values or {}).items():
        connection.execute(f'set variable "{name}" = ?', [value])
    try:
        requested = connection.extract_statements(sql)
        if [statement.type for statement in requested] != [duckdb.StatementType.SELECT]:
            raise UserError(
                f"{sql.strip()!r} is not one query, and the tables are only read; "
                "write one such as 'select * from generated_tokens limit 3'."
            )
        return connection.sql(sql).pl()
    except duckdb.Error as error:
        raise UserError(_explain(str(error).splitlines()[0], sql, data)) from error


def _explain(first: str, sql: str, data: Path | str) -> str:
    """The first line of DuckDB's error in our words: an old name, a view without tables, a wrong query."""
    there = _views_with_tables(data)
    if missing := re.search(r"Table with name (\w+) does not exist", first):
        name = missing[1].lower()
        if name in renamed.VIEWS:
            return renamed.explain("view", name, renamed.VIEWS[name])
        if name in (VIEWS | JOINED).keys() - there:
            return _tell_absence(name, data)
    if missing := re.search(_MISSING_COLUMN, first):
        name = (missing[1] or missing[2]).lower()
        if new := _new_columns(name, sql):
            return renamed.explain("column", name, new)
    return f"The query failed: {first} (known views: {', '.join(there) or 'none yet'})."


def _new_columns(old: str, sql: str) -> tuple[str, ...]:
    """New names of a column, those that a view named in the query has."""
    words = set(re.findall(r"\w+", sql.lower()))
    known = {column for view in (VIEWS | JOINED).keys() & words for column in _sentences(view)}
    return tuple(new for new in renamed.COLUMNS.get(old, ()) if new in known)


def _tell_absence(name: str, data: Path | str) -> str:
    folder = str(data).rstrip("/")
    return (
        f"There are no tables for '{name}' under {folder}/ yet; run 'dvc repro', or name the folder that "
        "holds them."
    )


def _finder(data: Path | str) -> Callable[[str], bool]:
    """Whether any file there matches a pattern."""
    if isinstance(data, Path):
        return lambda pattern: any(data.glob(pattern))
    files, root = _reach(data)
    return lambda pattern: bool(files.glob(f"{root}/{pattern}"))


def _reach(url: str) -> tuple:
    """File system and folder; UserError where there is no such folder."""
    import fsspec.core  # a third of a second, and most lakes are folders

    try:
        files, root = fsspec.core.url_to_fs(url)
        result = files.ls(root)
    except Exception as error:  # every kind of storage has errors of its own
        raise UserError(
            f"The tables should be in a folder that fsspec can reach, got '{url}' ({type(error).__name__}: "
            f"{error}); correct it, or install what it asks for."
        ) from error
    if not result:
        raise UserError(f"There is nothing at '{url}'; upload the tables or correct the address.")
    return files, root


def questions(folder: Path) -> dict[str, str]:
    """File to the sentence that it answers: the comment at its head, without the hints on variables."""
    heads = {str(path): path.read_text().splitlines()[0] for path in sorted(folder.glob("*.sql"))}
    return {name: head.removeprefix("--").strip() for name, head in heads.items()}
