"""`fsgen sql`, `tables`, `predict` and `summary`: queries on the stored tables."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.text import Text

from fsgen.cli.app import screen
from fsgen.config.load import load_settings
from fsgen.errors import UserError, lookup_or_suggest
from fsgen.tables import lake, views
from fsgen.tables.files import read_metrics

METRICS = Path("metrics")
QUERIES = Path("queries")
FORMATS = ("table", "csv", "json")


def sql(
    query: Annotated[
        str | None, typer.Argument(help="SQL, or a file of it; without it, the questions.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value, which the query reads as getvariable('name')."),
    ] = None,
    format: Annotated[str, typer.Option(help="table, csv or json.")] = "table",
    data: Annotated[str, typer.Option(help="Folder of the tables, or its URL: s3://bucket/data.")] = "data",
    init: Annotated[
        bool, typer.Option("--init", help="Print the views' definitions, for the duckdb shell.")
    ] = False,
):
    """Ask the tables in SQL.

    Example: `fsgen sql queries/first_mismatches.sql --set pair=arith-23k-451k`

    Example: `fsgen sql "select pair, avg(mismatch::int) from token_pairs group by pair"`
    """
    lookup_or_suggest(dict.fromkeys(FORMATS), format, "the formats")
    location = data if "://" in data else Path(data)
    if init:
        print(lake.definitions(location.resolve() if isinstance(location, Path) else location), end="")
    elif query is None:
        _list_questions()
    else:
        variables = dict(_parse_assignment(word) for word in set_ or [])
        _print_result(_read_query(query), variables, format, location)


def _list_questions() -> None:
    for file, question in lake.questions(QUERIES).items():
        screen.print(Text.assemble((f"{file}\n", "bold"), f"    {question}"))


def _read_query(query: str) -> str:
    """The SQL, out of its file where a file is named."""
    if not query.endswith(".sql"):
        return query
    if not Path(query).is_file():
        raise UserError(f"There is no file at {query}; name one that 'fsgen sql' lists, or write the SQL.")
    return Path(query).read_text()


def _parse_assignment(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name.isidentifier() or not equals:
        raise UserError(f"--set should read name=value, got '{word}'; write --set pair=arith-23k-451k.")
    return name, value


def _print_result(query: str, variables: dict[str, str], format: str, location: Path | str) -> None:
    if format == "csv":  # a CSV cell holds no list, so DuckDB writes every column as text
        inner = query.strip().rstrip(";")
        as_text = f"select columns(*)::varchar from ({inner}\n)"
        print(lake.query(as_text, location, variables).write_csv(), end="")
    elif format == "json":
        print(lake.query(query, location, variables).write_json())
    else:
        _print_table(lake.query(query, location, variables))


def _print_table(frame: pl.DataFrame) -> None:
    """Print a frame whole, as wide as the screen and at least 160 characters."""
    options = {
        "tbl_rows": -1,
        "tbl_cols": -1,
        "tbl_hide_dataframe_shape": True,
        "tbl_hide_column_data_types": True,
    }
    with pl.Config(**options, fmt_str_lengths=120, tbl_width_chars=max(screen.width, 160)):
        print(frame)


def tables(view: Annotated[str | None, typer.Argument(help="A view, whose columns are listed.")] = None):
    """List the views, or the columns of one.

    Example: `fsgen tables token_pairs`
    """
    if view is None:
        lines = [(name, entry.about) for name, entry in (views.VIEWS | views.JOINED).items()]
    else:
        lines = [(f"{name} ({kind})", about) for name, kind, about in lake.columns(view)]
    for name, about in lines:
        print(f"{name:<32} {about}")


def predict(
    dataset: Annotated[str, typer.Option(help="A dataset of params.yaml or of the published table.")],
    large: Annotated[
        float,
        typer.Option(
            help="Parameters of the large model; nominal ones for a dataset of the published table."
        ),
    ],
    small: Annotated[float, typer.Option(help="Parameters of the small model.")],
    method: Annotated[
        str, typer.Option(help="A method of params.yaml or of the published table.")
    ] = "oracle",
):
    """CoF of a pair that nobody ran, with its interval.

    Example: `fsgen predict --dataset gsm8k --large 70e9 --small 1.5e9`
    """
    from fsgen.analysis.scaling.prediction import predict_pair  # scipy's statistics, a second to import

    print(predict_pair(method, dataset, large, small))


def summary():
    """Print accuracy and collaboration frequency of every pair.

    Example: `fsgen summary`
    """
    from fsgen.report.summary import print_summary

    print_summary({name: read_metrics(METRICS / f"{name}.json") for name in load_settings().datasets})
