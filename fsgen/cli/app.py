"""What all commands share: the application, the screen, and arguments that mean the same everywhere."""

from typing import Annotated

import typer
from rich.console import Console

from fsgen.config import validation
from fsgen.config.schema import Settings
from fsgen.errors import UserError

app = typer.Typer(
    name="fsgen",
    help="Study how a small and a large language model write together.",
    rich_markup_mode="markdown",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
screen = Console(soft_wrap=True, highlight=False)
Pair = Annotated[str, typer.Argument(help="A key of pairs in params.yaml.")]
Dataset = Annotated[str | None, typer.Option(help="A key of datasets in params.yaml; else its first.")]

RENAMED = {  # in 0.2.0
    "headline": "summary",
    "keep": "archive",
    "stability": "batch-invariance",
    "tidy": "prune",
}


@app.callback()
def _begin(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False):
    """Accept --debug before any command; `fsgen.cli.__main__` reads it."""


def refuse_old_name(words: list[str]) -> None:
    """UserError where the command line names a command by the name that it had before 0.2.0."""
    command = next((word for word in words if not word.startswith("-")), None)
    if command in RENAMED:
        raise UserError(f"'fsgen {command}' is called 'fsgen {RENAMED[command]}' since 0.2.0.")


def name_or_first(name: str | None, settings: Settings, section: str) -> str:
    """The name, or without one the first of that section of params.yaml; UserError where it has none."""
    if name is not None:
        return name
    entries = getattr(settings, section)
    validation.refuse_empty(section, entries)
    return next(iter(entries))
