"""Parquet on disk: typed columns, same bytes for same input, nothing half-written.

Shape legend: N rows, K ids of the longest list.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fsgen.errors import UserError, refuse_full_disk

FORMAT_VERSION = "2"
ROW_GROUP = 1 << 17
KEY = ["prompt_id", "turn", "pos"]  # of a row, in every table of tokens


def schema(columns: list[tuple[str, pa.DataType, str]]) -> pa.Schema:
    """Arrow schema whose every column carries its sentence in memory, and the format version."""
    made = [pa.field(name, kind, metadata={"about": about}) for name, kind, about in columns]
    return pa.schema(made, metadata={"format_version": FORMAT_VERSION})


def sentences(columns: pa.Schema) -> dict[str, str]:
    """Column to its sentence."""
    return {field.name: field.metadata[b"about"].decode() for field in columns}


def _without_sentences(columns: pa.Schema) -> pa.Schema:
    """What a file holds of a schema: a better sentence must not change its bytes."""
    return pa.schema([field.remove_metadata() for field in columns], metadata=columns.metadata)


def write(path: Path, table: pa.Table | pl.DataFrame | dict | list[dict], columns: pa.Schema) -> None:
    """Write a table, columns or rows under a schema, zstd-compressed; the file appears whole or not."""
    if isinstance(table, pl.DataFrame):
        table = table.to_arrow()
    elif isinstance(table, dict):
        table = pa.table(table)
    elif isinstance(table, list):
        table = pa.Table.from_pylist(table, schema=columns)
    table = table.select(columns.names).cast(_without_sentences(columns))
    split = [f.name for f in columns if pa.types.is_float32(f.type)]
    split += [f"{f.name}.list.element" for f in columns if f.type == pa.list_(pa.float32())]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        pq.write_table(
            table,
            part,
            compression="zstd",
            row_group_size=ROW_GROUP,
            use_dictionary=[f.name for f in columns if pa.types.is_string(f.type)],
            use_byte_stream_split=split,
        )
    except OSError as error:
        part.unlink(missing_ok=True)
        refuse_full_disk(error, f"{path} needs about {table.nbytes >> 20} MiB")
        raise
    part.replace(path)


def read(source: str | Path, columns: list[str] | None = None) -> pl.DataFrame:
    """All rows of a file, a folder or a glob, in the order of the file names.

    Raises UserError where there is no file, a file is no whole Parquet file, or its format differs.
    """
    return pl.concat([pl.from_arrow(_read_one(path, columns)) for path in _found(source)])


def scan(source: str | Path) -> pl.LazyFrame:
    """The rows that `read` returns, to be narrowed before any of them is in memory; complains alike."""
    paths = _found(source)
    for path in paths:
        _open(path).close()
    return pl.scan_parquet(paths)


def shards(folder: Path, kind: str) -> list[str]:
    """Numbers of a folder's shards `<kind>-<number>.parquet`, in order; UserError where there is none."""
    return [path.stem.removeprefix(f"{kind}-") for path in _found(folder / f"{kind}-*.parquet")]


def _found(source: str | Path) -> list[Path]:
    source = Path(source)
    paths = sorted(source.glob("*.parquet") if source.is_dir() else source.parent.glob(source.name))
    if not paths:
        raise UserError(f"There is no table at {source}; run 'dvc repro', which writes it.")
    return paths


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a whole Parquet file; remove it and rerun its stage.") from error
    version = (file.schema_arrow.metadata or {}).get(b"format_version", b"none").decode()
    if version != FORMAT_VERSION:
        file.close()
        raise UserError(
            f"{path} has format version {version}, this fsgen reads {FORMAT_VERSION}; rerun its stage."
        )
    return file


def _read_one(path: Path, columns: list[str] | None) -> pa.Table:
    with _open(path) as file:
        return file.read(columns=columns)


def check_key_order(rows: pl.DataFrame, what: str) -> None:
    """ValueError unless the rows are sorted by KEY and no key occurs twice, which readers rely on."""
    follows = pl.lit(False)
    for name in reversed(KEY):
        column, before = pl.col(name), pl.col(name).shift()
        follows = (column > before) | ((column == before) & follows)
    if not rows.select(follows.slice(1).all()).item():
        raise ValueError(f"Rows of {what} are not sorted by {', '.join(KEY)}.")


def fingerprint(facts: dict) -> str:
    """Twenty hex digits that name everything that determines a shard's bytes."""
    text = json.dumps({"format": FORMAT_VERSION, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def to_list_array(values_NK: np.ndarray, held_NK: np.ndarray) -> pa.ListArray:
    """Padded rows as lists of the held entries."""
    offsets = np.concatenate([[0], held_NK.sum(axis=1).cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values_NK[held_NK]))


def pad_lists(lists: pl.Series, fill: float, width: int = 0) -> np.ndarray:
    """Lists as rows padded on the right with `fill`, [N, K], K being at least `width`."""
    lengths_N = lists.list.len().to_numpy()
    flat = lists.explode(empty_as_null=False).to_numpy()
    values_NK = np.full((len(lengths_N), int(lengths_N.max(initial=width))), fill, dtype=flat.dtype)
    values_NK[np.arange(values_NK.shape[1]) < lengths_N[:, None]] = flat
    return values_NK
