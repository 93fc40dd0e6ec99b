"""`fsgen migrate`: rewrite a params file of an earlier version."""

from pathlib import Path
from typing import Annotated

import typer

from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.tables import files


def migrate(file: Annotated[Path, typer.Argument(help="A params file of 0.1.")] = Path("params.yaml")):
    """Rewrite a params file of 0.1 with the names of 0.2.0; comments and order stay.

    Example: `fsgen migrate params.yaml`
    """
    from fsgen.config import migration  # ruamel.yaml

    if not file.is_file():
        raise UserError(f"There is no params file at {file}; name one.")
    text, renames = migration.migrate(_read(file), str(file))
    for rename in renames:
        print(f"{file}, {rename}")
    if not renames:
        console.done(f"Nothing to rename: {file} has the names of 0.2.0.")
        return
    files.write_whole(file, text)
    console.done(f"Renamed {len(renames)} names in {file}; 'fsgen check' validates it.")


def _read(file: Path) -> str:
    """The text of a file with its line ends as they are; UserError where it is not UTF-8."""
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a text file in UTF-8; name a params file.") from error
