"""Entry point of the console script: all commands, and one sentence for any error."""

import sys
import traceback

import typer

from fsgen.cli import query, results, show
from fsgen.cli.app import app
from fsgen.errors import UserError

ROOMS = (query, show, results)  # to import them is to register their commands


def main() -> None:
    """Do what the words on the command line say; any error is one line on stderr and exit code 1."""
    try:
        app(standalone_mode=False)
    except UserError as complaint:
        _fail(str(complaint))
    except typer.Abort:
        _fail("stopped; what is finished is kept, and the same command goes on from there.")
    except typer.TyperException as misuse:  # a flag or a word that the command does not take
        _fail(f"{misuse.format_message()} (see 'fsgen --help', or a command's own --help)")
    except Exception as error:  # a fault of ours: one line too, and where it came from if asked
        _fail(f"{type(error).__name__}: {error}; this should not happen; 'fsgen --debug' shows where it did.")


def _fail(sentence: str) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"fsgen: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
