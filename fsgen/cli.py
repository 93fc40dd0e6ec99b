"""`fsgen` for people: each command reads its words, calls one room of the house and prints."""

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from fsgen import console, lake, settings, views
from fsgen.typed import Complaint, look_up, read_yaml

QUERIES = Path("queries")
app = typer.Typer(
    name="fsgen",
    help="Study how a small and a large language model write together.",
    rich_markup_mode="markdown",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
screen = Console(soft_wrap=True, highlight=False)


def main() -> None:
    """Entry point of the console script; any error is one line on stderr and exit code 1."""
    try:
        app()
    except SystemExit as left:
        if left.code:
            raise
    except Complaint as complaint:
        _fail(str(complaint))
    except Exception as error:  # a fault of ours: one line too, and where it came from if asked
        _fail(f"{type(error).__name__}: {error}; this should not happen; 'fsgen --debug' shows where it did.")


def _fail(sentence: str) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"fsgen: {sentence}", file=sys.stderr)
    raise SystemExit(1) from None


@app.callback()
def _begin(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False):
    """What is true of all commands."""


Pair = Annotated[str, typer.Argument(help="A key of pairs in params.yaml.")]
Dataset = Annotated[str | None, typer.Option(help="A key of datasets in params.yaml; else its first.")]


@app.command()
def check(
    params: Annotated[
        Path | None, typer.Argument(help="A params file that is a plan: its tokenizers are not opened.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="Estimate hours on h100, a100, or here, measured.")] = None,
):
    """Validate params.yaml as a whole, and say what it will cost; opens tokenizers, no weights.

    Example: `fsgen check profiles/qwen15.yaml --on h100`
    """
    from fsgen import estimates

    loaded = settings.load(params or "params.yaml")
    if params is None:
        _check_tokenizers(loaded)
    counts = ", ".join(
        f"{len(getattr(loaded, kind))} {kind}" for kind in ("datasets", "models", "pairs", "policies")
    )
    print(f"{params or 'params.yaml'} holds: {counts}.")
    if on == "here":
        from fsgen import pace

        lines = estimates.tell(loaded, measured=pace.measure_machine())
    else:
        lines = estimates.tell(loaded, on)
    print("\n".join(lines))


def _check_tokenizers(loaded: settings.Settings) -> None:
    """Complaint where a pair cannot be fused, as far as its models have been trained."""
    from fsgen import checkpoints  # transformers takes seconds, and few commands need it

    trained = {name for name, model in loaded.models.items() if checkpoints.is_there(model)}
    for pair, entry in loaded.pairs.items():
        if trained.issuperset(entry.members().values()):
            checkpoints.check_tokenizers(loaded, pair)


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
    init: Annotated[
        bool, typer.Option("--init", help="Print the views' definitions, for the duckdb shell.")
    ] = False,
):
    """Ask the tables in SQL.

    Example: `fsgen sql queries/first_mismatches.sql --set pair=arith-23k-451k`

    Example: `fsgen sql "select pair, avg(disagree::int) from sides where writer = 'large' group by pair"`
    """
    look_up(dict.fromkeys(("table", "csv", "json")), format, "the formats")
    if init:
        print(lake.definitions(Path("data").resolve()), end="")
        return
    if query is None:
        for name, question in lake.questions(QUERIES).items():
            screen.print(Text.assemble((f"{name}\n", "bold"), f"    {question}"))
        return
    values = dict(_assignment(word) for word in set_ or [])
    text = Path(query).read_text() if query.endswith(".sql") and Path(query).is_file() else query
    _print_frame(text, values, format)


def _assignment(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name.isidentifier() or not equals:
        raise Complaint(f"--set should read name=value, got '{word}'; write --set pair=arith-23k-451k.")
    return name, value


def _print_frame(query: str, values: dict[str, str], format: str) -> None:
    if format == "csv":  # a CSV cell holds no list, so DuckDB spells all of them
        inner = query.strip().rstrip(";")
        print(lake.ask(f"select columns(*)::varchar from ({inner}\n)", values=values).write_csv(), end="")
        return
    frame = lake.ask(query, values=values)
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
def show(
    pair: Pair,
    prompt_id: Annotated[str, typer.Argument(help="A prompt, as the view prompts names it.")],
    policy: Annotated[str | None, typer.Option(help="Mark the tokens of this policy's text.")] = None,
    pos: Annotated[
        int | None, typer.Option(help="With a policy: both models' ten likeliest tokens there.")
    ] = None,
):
    """Look at one prompt, down to the token.

    Example: `fsgen show arith-23k-451k arith-00152 --policy oracle+entropy@20 --pos 6`
    """
    from fsgen import showing

    if pos is not None and policy is None:
        raise Complaint("--pos is a place in a policy's text; name it with --policy.")
    if policy is None:
        screen.print(showing.show_prompt(pair, prompt_id))
    elif pos is None:
        screen.print(showing.show_policy(pair, prompt_id, policy))
    else:
        screen.print(showing.show_token(pair, prompt_id, policy, pos))


@app.command()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Words, or a prompt's id; without it, a conversation.")
    ] = None,
    pair: Annotated[str | None, typer.Option(help="A key of pairs in params.yaml; else its first.")] = None,
    policy: Annotated[str, typer.Option(help="Any policy, in params.yaml or not.")] = "oracle+entropy@20",
    dataset: Dataset = None,
):
    """Let a pair write one text under a policy, token by token, marked by who chose it.

    Example: `fsgen generate --pair arith-23k-451k --policy oracle+entropy@20 arith-00152`
    """
    from fsgen import generation  # torch, as below

    loaded = settings.load()
    duet = generation.open_duet(
        loaded, pair or next(iter(loaded.pairs)), policy, dataset or next(iter(loaded.datasets))
    )
    if prompt is not None:
        _perform(duet, prompt)
        return
    while asked := _listen():
        _perform(duet, asked)


def _listen() -> str:
    """The next line that a person asks; nothing at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return ""


def _perform(duet, asked: str) -> None:
    from fsgen import generation, showing

    tally, spoken = generation.Tally(), []
    for piece, one in generation.spell(duet, generation.prompt_row(duet, asked), tally):
        spoken.append(one)
        rows = [{"piece": piece, "called": one.called, "mismatch": one.is_changed}]
        screen.print(showing.mark(rows, ""), end="")
    screen.print(Text(f"\n{showing.LEGEND}\n{generation.sum_up(spoken, tally)}", style="dim"))


@app.command()
def run(
    large: Annotated[str, typer.Option(help="Hub id (or id@commit), or a checkpoint's folder.")],
    small: Annotated[str, typer.Option(help="The same.")],
    dataset: Annotated[str, typer.Option(help="A key of datasets in params.yaml, or a task.")],
    tuned: Annotated[str | None, typer.Option(help="The small model after fine-tuning, for proxy.")] = None,
    data: Annotated[str | None, typer.Option(help="Local data of the task; else the hub's.")] = None,
    method: Annotated[
        str, typer.Option(help="A rule or a method of params.yaml; speculative@K drafts.")
    ] = "oracle",
    router: Annotated[
        str | None, typer.Option(help="With its budget, as in entropy@20; else always.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Prompts, calibration and test together.")] = 100,
    max_new_tokens: Annotated[
        int, typer.Option(help="Of a turn, for a task that params.yaml does not name.")
    ] = 256,
    prompt: Annotated[str, typer.Option(help="How models are asked: plain or chat.")] = "plain",
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution", help="For mbpp.")] = False,
):
    """Run one combination without editing params.yaml, in runs/.

    Example: `fsgen run --large data/family/base-451k --small data/family/base-23k --dataset arith --limit 32`
    """
    from fsgen import trial
    from fsgen.report import headline

    wish = trial.Wish(
        **{name: value for name, value in locals().items() if name in trial.Wish.__annotations__}
    )
    home = trial.run(wish)
    content = json.loads((home / "metrics" / f"{dataset}.json").read_text())
    print(headline.markdown(dataset, content))
    print(headline.policies(content))
    print(f"To keep the pair, add this to params.yaml:\n\n{trial.moving_in(read_yaml(home / 'params.yaml'))}")


@app.command()
def predict(
    dataset: Annotated[str, typer.Option(help="A dataset of params.yaml or of the published table.")],
    large: Annotated[float, typer.Option(help="Parameters of the large model.")],
    small: Annotated[float, typer.Option(help="Parameters of the small model.")],
    method: Annotated[
        str, typer.Option(help="A method of params.yaml or of the published table.")
    ] = "oracle",
):
    """CoF of a pair that nobody ran, with its interval.

    Example: `fsgen predict --dataset gsm8k --large 70e9 --small 1.5e9`
    """
    from fsgen import prediction  # scipy's statistics, a second to import

    print(prediction.foretell(method, dataset, large, small))


@app.command()
def speedup(
    pair: Pair, dataset: Dataset = None, prompts: Annotated[int, typer.Option(help="To time on.")] = 4
):
    """Time both models of a pair on this machine, and say what drafting would gain.

    Example: `fsgen speedup arith-23k-451k`
    """
    from fsgen import pace

    loaded = settings.load()
    dataset = dataset or next(iter(loaded.datasets))
    found = pace.measure(loaded, pair, dataset, prompts)
    print(
        f"{pair}, batch 1, medians: a step of the small model takes {1e3 * found.small:.2f} ms, of "
        f"the large one {1e3 * found.large:.2f} ms; cost ratio {found.small / found.large:.3f}."
    )
    for k, speed_up in pace.speed_ups(loaded, pair, dataset, found).items():
        print(
            f"K = {k}: verifying takes {found.verification[k] / found.large:.2f} steps of the large model; "
            f"expected speed-up {speed_up.value:.2f} ({speed_up.low:.2f} to {speed_up.high:.2f}, 95 % over "
            f"the test prompts of {dataset}, the pace taken as known)."
        )


@app.command()
def stability(
    model: Annotated[str, typer.Argument(help="A key of models in params.yaml.")],
    dataset: Dataset = None,
    prompts: Annotated[int, typer.Option(help="To write on.")] = 8,
):
    """Write prompts one by one and side by side, and say where a model's texts part.

    Example: `fsgen stability arith-87k --prompts 4`
    """
    from fsgen import stability as steadiness

    loaded = settings.load()
    dataset = dataset or next(iter(loaded.datasets))
    found = steadiness.compare(loaded, model, dataset, prompts)
    print(
        f"{model} wrote {found.tokens} tokens of {prompts} prompts of {dataset} alone. "
        f"Side by side {found.shared} of them come before any difference; "
        f"their top logits moved by at most {found.largest_shift:.2g}."
    )
    for there in sorted(found.divergences, key=lambda there: there.pos):
        print(
            f"{there.prompt_id} parts at position {there.pos}: token {there.alone_id} alone, "
            f"{there.together_id} together, where the margin was {there.margin:.3g} nats."
        )


@app.command()
def grade(
    task: Annotated[str, typer.Argument(help="gsm8k, mbpp, ...")],
    file: Annotated[Path, typer.Argument(help="A JSON object a line: the task's gold columns and `text`.")],
):
    """Grade the texts of a file, as the pipeline grades its own.

    Example: `fsgen grade gsm8k answers.jsonl`
    """
    from fsgen import benchmarks, grading
    from fsgen.tasks import rows

    look_up(benchmarks.TASKS, task, "the tasks")
    if not file.is_file():
        raise Complaint(f"There is no file at {file}; name one with a JSON object a line.")
    grader = grading.Grader(settings.load())
    for found in grading.grade_rows(grader, task, rows.read_file(file)):
        print(json.dumps(found))


@app.command()
def report():
    """Draw the figures and write plots/report.html from the tables that are there.

    Example: `fsgen report`
    """
    from fsgen.report import writing

    writing.write_report(settings.load())


@app.command()
def headline():
    """Print accuracy and collaboration frequency of every pair.

    Example: `fsgen headline`
    """
    from fsgen.report import headline as told

    told.print_headline(settings.load())


@app.command()
def tidy(yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False):
    """Remove outputs of pairs, models and datasets that params.yaml no longer names.

    Example: `fsgen tidy`
    """
    from fsgen import tidying

    found = tidying.find_leftovers(settings.load())
    for path in found:
        print(f"{tidying.size_of(path) / 1e6:9.1f} MB  {path}")
    if not found:
        console.wrote("Nothing to remove: everything under data/ and metrics/ is named in params.yaml.")
    elif yes or typer.confirm(f"Remove these {len(found)}?"):
        for path in found:
            tidying.remove(path)
        console.wrote(f"Removed {len(found)}.")
    else:
        console.wrote("Removed nothing.")


if __name__ == "__main__":
    main()
