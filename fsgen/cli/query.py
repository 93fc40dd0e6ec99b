"""`fsgen sql`, `tables`, `predict` and `headline`: queries on the stored tables."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fsgen.cli.app import app, screen
from fsgen.config.load import load_settings
from fsgen.errors import UserError, lookup_or_suggest
from fsgen.tables import lake, views

QUERIES = Path("queries")


@app.command()
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

    Example: `fsgen sql "select pair, avg(disagree::int) from sides where writer = 'large' group by pair"`
    """
    lookup_or_suggest(dict.fromkeys(("table", "csv", "json")), format, "the formats")
    tables = data if "://" in data else Path(data)
    if init:
        print(lake.definitions(tables.resolve() if isinstance(tables, Path) else tables), end="")
        return
    if query is None:
        for name, question in lake.questions(QUERIES).items():
            screen.print(Text.assemble((f"{name}\n", "bold"), f"    {question}"))
        return
    values = dict(_assignment(word) for word in set_ or [])
    _print_frame(_read_query(query), values, format, tables)


def _read_query(query: str) -> str:
    """The SQL, out of its file where a file is named."""
    if not query.endswith(".sql"):
        return query
    if not Path(query).is_file():
        raise UserError(f"There is no file at {query}; name one that 'fsgen sql' lists, or write the SQL.")
    return Path(query).read_text()


def _assignment(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name.isidentifier() or not equals:
        raise UserError(f"--set should read name=value, got '{word}'; write --set pair=arith-23k-451k.")
    return name, value


def _print_frame(query: str, values: dict[str, str], format: str, tables: Path | str) -> None:
    if format == "csv":  # a CSV cell holds no list, so DuckDB spells all of them
        inner = query.strip().rstrip(";")
        spelt = f"select columns(*)::varchar from ({inner}\n)"
        print(lake.query(spelt, tables, values).write_csv(), end="")
        return
    frame = lake.query(query, tables, values)
    if format == "json":
        print(frame.write_json())
        return
    import polars as pl

    how = {
        "tbl_rows": -1,
        "tbl_cols": -1,
        "tbl_hide_dataframe_shape": True,
        "tbl_hide_column_data_types": True,
    }
    with pl.Config(**how, fmt_str_lengths=120, tbl_width_chars=max(screen.width, 160)):
        print(frame)


@app.command()
def tables(view: Annotated[str | None, typer.Argument(help="A view, whose columns are listed.")] = None):
    """List the views, or the columns of one.

    Example: `fsgen tables sides`
    """
    if view is None:
        rows = [(name, one.about) for name, one in (views.VIEWS | views.JOINED).items()]
    else:
        rows = [(f"{name} ({kind})", about) for name, kind, about in lake.columns(view)]
    for name, about in rows:
        print(f"{name:<32} {about}")


@app.command()
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
    from fsgen.analysis.scaling import prediction  # scipy's statistics, a second to import

    print(prediction.predict_pair(method, dataset, large, small))


@app.command()
def headline():
    """Print accuracy and collaboration frequency of every pair.

    Example: `fsgen headline`
    """
    from fsgen.report import headline

    headline.print_headline(load_settings())
