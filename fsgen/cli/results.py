"""`fsgen grade`, `report`, `keep` and `tidy`: work on results that are written."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from fsgen.cli.app import app
from fsgen.config.load import load_settings
from fsgen.config.schema import Settings
from fsgen.config.validation import RESERVED
from fsgen.errors import UserError, lookup_or_suggest
from fsgen.execution import console


@app.command()
def grade(
    task: Annotated[str, typer.Argument(help="gsm8k, mbpp, ...")],
    file: Annotated[Path, typer.Argument(help="A JSON object a line: the task's gold columns and `text`.")],
):
    """Grade the texts of a file, as the pipeline grades its own.

    Example: `fsgen grade gsm8k answers.jsonl`
    """
    from fsgen.tasks import grade, registry, sources

    lookup_or_suggest(registry.TASKS, task, "the tasks")
    if not file.is_file():
        raise UserError(f"There is no file at {file}; name one with a JSON object a line.")
    grader = grade.Grader(load_settings())
    for found in grade.grade_rows(grader, task, sources.read_file(file)):
        print(json.dumps(found))


@app.command()
def report():
    """Draw the figures and write plots/report.html from the tables that are there.

    Example: `fsgen report`
    """
    from fsgen.report import report

    report.write_report(load_settings())


@app.command()
def keep(name: Annotated[str, typer.Argument(help="The folder under results/.")]):
    """Keep what this run found in `results/<name>/`, small enough for git: numbers, figures, times, findings.

    Example: `fsgen keep qwen-coder`
    """
    from fsgen.report import archive  # torch, for what it finds on the machine

    archive.archive(load_settings(), name)


@app.command()
def tidy(yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False):
    """Remove outputs of pairs, models and datasets that params.yaml no longer names.

    Example: `fsgen tidy`
    """
    pass

    found = find_leftovers(load_settings())
    for path in found:
        print(f"{size_of(path) / 1e6:9.1f} MB  {path}")
    if not found:
        console.done("Nothing to remove: everything under data/ and metrics/ is named in params.yaml.")
    elif yes or typer.confirm(f"Remove these {len(found)}?"):
        for path in found:
            remove_leftover(path)
        console.done(f"Removed {len(found)}.")
    else:
        console.done("Removed nothing.")


# where each kind's outputs stand, its name being the last part of the path, without an ending
OF_PAIRS = ("large", "small", "fused", "routes", "rollouts", "closeups", "graded/pairs")
OF_MODELS = ("dumps", "models", "vocabulary", "graded/models")
OF_DATASETS = ("prompts", "evaluated")
AGGREGATES = ("compared", "uncertainty")  # one folder a dataset, made anew whenever their stage runs


def find_leftovers(settings: Settings) -> list[Path]:
    """Outputs of names that params.yaml does not hold, sorted; what stages share is not among them."""
    found = []
    for folders, names in (
        (OF_PAIRS, settings.pairs),
        (OF_MODELS, settings.models),
        (OF_DATASETS, settings.datasets),
        (AGGREGATES, settings.datasets),
    ):
        for folder in folders:
            found += [path for path in Path("data", folder).glob("*") if path.stem not in names]
    kept = RESERVED | settings.datasets.keys()
    return sorted(found + [path for path in Path("metrics").glob("*.json") if path.stem not in kept])


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


def remove_leftover(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
