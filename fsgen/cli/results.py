"""`fsgen grade`, `report` and `archive`: work on results that are written."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fsgen.config.load import load_settings
from fsgen.config.registry import TASKS
from fsgen.errors import UserError, lookup_or_suggest


def grade(
    task: Annotated[str, typer.Argument(help="gsm8k, mbpp, ...")],
    file: Annotated[Path, typer.Argument(help="A JSON object a line: the task's gold columns and `text`.")],
):
    """Grade the texts of a file, as the pipeline grades its own.

    Example: `fsgen grade gsm8k answers.jsonl`
    """
    from fsgen.tasks.grade import Grader, grade_rows
    from fsgen.tasks.sources import read_file

    lookup_or_suggest(TASKS, task, "the tasks")
    if not file.is_file():
        raise UserError(f"There is no file at {file}; name one with a JSON object a line.")
    settings = load_settings()
    grader = Grader(settings.allow_code_execution, settings.sandbox)
    for row in grade_rows(grader, task, read_file(file)):
        print(json.dumps(row))


def report():
    """Draw the figures and write plots/report.html from the tables that are there.

    Example: `fsgen report`
    """
    from fsgen.report.report import write_report

    write_report(load_settings())


def archive(name: Annotated[str, typer.Argument(help="The folder under results/.")]):
    """Keep what this run found in `results/<name>/`, small enough for git: numbers, figures, times, findings.

    Example: `fsgen archive qwen-coder`
    """
    from fsgen.report.archive import archive as archive_run

    archive_run(load_settings(), name)
