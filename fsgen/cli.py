"""`fsgen` for people: check a params file, ask the tables in SQL, print the headline table."""

import argparse
import json
import sys
from pathlib import Path

from fsgen import lake, settings, views
from fsgen.report import headline
from fsgen.typed import Complaint, look_up


def main() -> None:
    """Entry point of the console script; a Complaint is one line on stderr and exit code 1."""
    arguments = _parser().parse_args()
    try:
        arguments.act(arguments)
    except Complaint as complaint:
        print(f"fsgen: {complaint}", file=sys.stderr)
        raise SystemExit(1) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fsgen", description=__doc__)
    acts = parser.add_subparsers(required=True, metavar="COMMAND")
    check = acts.add_parser("check", help="validate params.yaml as a whole; opens tokenizers, no weights")
    check.set_defaults(act=_check)
    sql = acts.add_parser(
        "sql", help='ask the tables: fsgen sql "select pair, avg(mismatch::int) from fused group by 1"'
    )
    sql.add_argument("query")
    sql.add_argument("--format", choices=("table", "csv", "json"), default="table")
    sql.set_defaults(act=_sql)
    tables = acts.add_parser("tables", help="list the views, or the columns of one: fsgen tables fused")
    tables.add_argument("view", nargs="?")
    tables.set_defaults(act=_tables)
    stability = acts.add_parser(
        "stability", help="write prompts one by one and side by side, and say where a model's texts part"
    )
    stability.add_argument("model")
    stability.add_argument("--dataset", help="default: the first of params.yaml")
    stability.add_argument("--prompts", type=int, default=8)
    stability.set_defaults(act=_stability)
    predict = acts.add_parser(
        "predict", help="CoF of a pair that nobody ran: fsgen predict --large 70e9 --small 1.5e9 ..."
    )
    predict.add_argument("--method", default="oracle")
    predict.add_argument("--dataset", required=True, help="of params.yaml or of the published table")
    predict.add_argument("--large", type=float, required=True, help="parameters of the large model")
    predict.add_argument("--small", type=float, required=True, help="parameters of the small model")
    predict.set_defaults(act=_predict)
    speedup = acts.add_parser(
        "speedup", help="time both models of a pair here, and say what drafting would gain"
    )
    speedup.add_argument("pair")
    speedup.add_argument("--dataset", help="default: the first of params.yaml")
    speedup.add_argument("--prompts", type=int, default=4)
    speedup.set_defaults(act=_speedup)
    grade = acts.add_parser(
        "grade", help="grade the lines of a file: the task's gold columns and `text`, a JSON object a line"
    )
    grade.add_argument("task")
    grade.add_argument("file", type=Path)
    grade.set_defaults(act=_grade)
    headline = acts.add_parser("headline", help="print accuracy and collaboration frequency of every pair")
    headline.set_defaults(act=_headline)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    from fsgen import checkpoints  # transformers takes seconds, and only this command needs it

    loaded = settings.load()
    trained = {name for name, model in loaded.models.items() if checkpoints.is_there(model)}
    for pair, entry in loaded.pairs.items():
        if trained.issuperset(entry.members().values()):
            checkpoints.check_tokenizers(loaded, pair)
    counts = ", ".join(
        f"{len(getattr(loaded, kind))} {kind}" for kind in ("datasets", "models", "pairs", "policies")
    )
    print(f"params.yaml holds: {counts}.")


def _sql(arguments: argparse.Namespace) -> None:
    query = arguments.query.strip().rstrip(";")
    if arguments.format == "csv":  # a CSV cell holds no list, so DuckDB spells all of them
        print(lake.ask(f"select columns(*)::varchar from ({query})").write_csv(), end="")
        return
    frame = lake.ask(query)
    if arguments.format == "json":
        print(frame.write_json())
    else:
        import polars as pl

        with pl.Config(
            tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True
        ):
            print(frame)


def _tables(arguments: argparse.Namespace) -> None:
    if arguments.view is None:
        rows = [(name, view.about) for name, view in views.VIEWS.items()]
    else:
        rows = [(f"{name} ({kind})", about) for name, kind, about in lake.columns(arguments.view)]
    for name, about in rows:
        print(f"{name:<32} {about}")


def _stability(arguments: argparse.Namespace) -> None:
    from fsgen import stability  # torch, which only this command needs

    loaded = settings.load()
    dataset = arguments.dataset or next(iter(loaded.datasets))
    found = stability.compare(loaded, arguments.model, dataset, arguments.prompts)
    print(
        f"{arguments.model} wrote {found.tokens} tokens of {arguments.prompts} prompts of {dataset} alone. "
        f"Side by side {found.shared} of them come before any difference; "
        f"their top logits moved by at most {found.largest_shift:.2g}."
    )
    for there in sorted(found.divergences, key=lambda there: there.pos):
        print(
            f"{there.prompt_id} parts at position {there.pos}: token {there.alone_id} alone, "
            f"{there.together_id} together, where the margin was {there.margin:.3g} nats."
        )


def _predict(arguments: argparse.Namespace) -> None:
    from fsgen import prediction  # scipy's statistics, a second to import

    asked = (arguments.method, arguments.dataset, arguments.large, arguments.small)
    print(prediction.foretell(*asked))


def _speedup(arguments: argparse.Namespace) -> None:
    from fsgen import pace  # torch, as above

    loaded = settings.load()
    dataset = arguments.dataset or next(iter(loaded.datasets))
    found = pace.measure(loaded, arguments.pair, dataset, arguments.prompts)
    print(
        f"{arguments.pair}, batch 1, medians: a step of the small model takes {1e3 * found.small:.2f} ms, of "
        f"the large one {1e3 * found.large:.2f} ms; cost ratio {found.small / found.large:.3f}."
    )
    for k, speed_up in pace.speed_ups(loaded, arguments.pair, dataset, found).items():
        print(
            f"K = {k}: verifying takes {found.verification[k] / found.large:.2f} steps of the large model; "
            f"expected speed-up {speed_up.value:.2f} ({speed_up.low:.2f} to {speed_up.high:.2f}, 95 % over "
            f"the test prompts of {dataset}, the pace taken as known)."
        )


def _grade(arguments: argparse.Namespace) -> None:
    from fsgen import benchmarks, grading  # a second to import, and only this command needs it
    from fsgen.tasks import rows

    look_up(benchmarks.TASKS, arguments.task, "the tasks")
    if not arguments.file.is_file():
        raise Complaint(f"There is no file at {arguments.file}; name one with a JSON object a line.")
    grader = grading.Grader(settings.load())
    for found in grading.grade_rows(grader, arguments.task, rows.read_file(arguments.file)):
        print(json.dumps(found))


def _headline(arguments: argparse.Namespace) -> None:
    headline.print_headline(settings.load())


if __name__ == "__main__":
    main()
