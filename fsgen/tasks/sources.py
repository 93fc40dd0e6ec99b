"""Rows of a benchmark, from the hub or from local files with the hub's column names."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError


class Source(NamedTuple):
    """Where a benchmark's rows are, and which columns each must have."""

    title: str
    """Name of the benchmark in messages."""
    hub: str
    """Repository of the hub."""
    config: str | None
    """Configuration of the hub's dataset, if it has several."""
    columns: dict[str, type]
    """Columns that every row must have, with their types."""


def read(source: Source, split: str, path: str | None, stem: str | None = None) -> list[dict]:
    """Rows of a split, in its order, with the source's columns and any others they have.

    Without `path` the rows come from the hub. A folder holds `<stem>.jsonl` or `<stem>.parquet` (by default
    the stem is the split's name), and a file is itself the split. Raises UserError if nothing can be read,
    there is no row, or a row lacks a column or holds another type in it.
    """
    stem = stem or split
    rows = _read_hub(source, split) if path is None else read_file(_find_file(Path(path), stem))
    where = f"{source.title}'s '{stem}' ({path or source.hub})"
    if not rows:
        raise UserError(f"{where} should hold rows, got none; complete it or name another split.")
    for number, row in enumerate(rows):
        _check_row(where, number, row, source.columns)
    return rows


def read_file(file: Path) -> list[dict]:
    """Rows of a Parquet or a JSON lines file."""
    if file.suffix == ".parquet":
        try:
            return pl.read_parquet(file).to_dicts()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise UserError(
                f"{file} should be a whole Parquet file, got a broken one; fetch it again."
            ) from error
    with file.open("rb") as lines:
        return [_read_line(file, i, line) for i, line in enumerate(lines, 1) if line.strip()]


def refuse_single_file(dataset: DatasetConfig) -> None:
    """UserError if examples are requested of another split and the path is a single file."""
    if dataset.path is not None and Path(dataset.path).is_file():
        raise UserError(
            f"{dataset.path} should be a folder that also holds train.jsonl, got a single file with "
            f"{dataset.shots} shots; name a folder or set shots to 0."
        )


def has_splits(path: str, splits: Iterable[str]) -> bool:
    """Whether a local folder holds a file for each of these splits."""
    return all(any(file.is_file() for file in _candidates(Path(path), split)) for split in splits)


def _candidates(folder: Path, stem: str) -> list[Path]:
    return [folder / f"{stem}.jsonl", folder / f"{stem}.parquet"]


def _find_file(path: Path, stem: str) -> Path:
    for file in [path] if path.is_file() else _candidates(path, stem):
        if file.is_file():
            return file
    raise UserError(f"{path} should hold {stem}.jsonl or {stem}.parquet, got neither; put the rows there.")


_TYPE_WORDS = {str: "text", int: "a number", list: "a list"}


def _check_row(where: str, number: int, row: dict, columns: dict[str, type]) -> None:
    for column, kind in columns.items():
        if not isinstance(row.get(column), kind):
            got = "none" if row.get(column) is None else repr(row[column])[:40]
            raise UserError(
                f"{where} should have {_TYPE_WORDS[kind]} in the column '{column}', got {got} in row "
                f"{number}, which has {', '.join(sorted(row)) or 'no column'}; "
                "fill the columns that the hub names."
            )


def _read_line(file: Path, number: int, line: bytes) -> dict:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(
            f"{file}, line {number}, should be a JSON object, got {line[:40]!r}; fetch the file again."
        )
    return row


def _read_hub(source: Source, split: str) -> list[dict]:
    from datasets import load_dataset  # seconds to import, and only the hub needs it

    try:
        return load_dataset(source.hub, source.config, split=split).to_list()
    except Exception as error:  # offline, gated, unknown split: the client's errors share no class
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise UserError(
            f"'{source.hub}', split '{split}', could not be loaded from the hub "
            f"({type(error).__name__}: {reason}); "
            "go online, ask for access, or set the dataset's 'path' to a local copy."
        ) from error
