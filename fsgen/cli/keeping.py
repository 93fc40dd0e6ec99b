"""Commands about what was written: verdicts, the page, what to keep, and what nobody needs any more."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fsgen import console, settings
from fsgen.cli.app import app
from fsgen.typed import Complaint, look_up


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
def keep(name: Annotated[str, typer.Argument(help="The folder under results/.")]):
    """Keep what this run found in `results/<name>/`, small enough for git: numbers, figures, times, findings.

    Example: `fsgen keep qwen-coder`
    """
    from fsgen import results  # torch, for what it finds on the machine

    results.keep(settings.load(), name)


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
