"""Entry point of the console script: all commands, and one sentence for any error."""

import sys
import traceback

import typer

from fsgen.cli import check, measure, migrate, prune, query, results, run, show
from fsgen.cli.app import app, refuse_old_name
from fsgen.errors import UserError

COMMANDS = (  # in the order of the help page
    query.sql,
    query.tables,
    show.show,
    query.predict,
    query.summary,
    check.check,
    show.generate,
    run.run,
    measure.speedup,
    measure.batch_invariance,
    results.grade,
    results.report,
    results.archive,
    prune.prune,
    migrate.migrate,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command that the command line names; any error is one line on stderr and exit code 1."""
    try:
        refuse_old_name(sys.argv[1:])
        app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except typer.Abort:
        _fail("stopped; what is finished is kept, and the same command goes on from there.")
    except typer.TyperException as error:  # an option or a word that the command does not take
        _fail(f"{error.format_message()} (see 'fsgen --help', or a command's own --help)")
    except Exception as error:  # a bug: one line too, with the traceback only on request
        _fail(f"{type(error).__name__}: {error}; this should not happen; 'fsgen --debug' shows where it did.")


def _fail(sentence: str) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"fsgen: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
