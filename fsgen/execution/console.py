"""What a stage says to the terminal: a progress bar, one closing line, one sentence when it fails."""

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from fsgen.errors import UserError
from fsgen.execution import timings


class Bar(tqdm):
    """A progress bar that counts its unit against a total and tokens against the clock."""

    tokens = 0

    def advance(self, done: int = 0, tokens: int = 0) -> None:
        """Note finished units and the tokens that went through a model meanwhile."""
        self.tokens += tokens
        timings.count(tokens)
        elapsed = max(self.format_dict["elapsed"], 1e-9)
        self.set_postfix_str(f"{self.tokens / elapsed:.0f} tokens/s", refresh=False)
        self.update(done)


class Count:
    """Stands for a bar where none is drawn."""

    tokens = 0

    def advance(self, done: int = 0, tokens: int = 0) -> None:
        """Note the tokens."""
        self.tokens += tokens


def progress(total: int, unit: str, label: str) -> Bar:
    """A bar with rates and time left; use it as a context manager.

    Drawn twice a second on a terminal, twice a minute into a log.
    """
    pause = 0.5 if sys.stderr.isatty() else 30
    return Bar(total=total, unit=f" {unit}", desc=label, mininterval=pause, smoothing=0.1, leave=False)


def done(sentence: str) -> None:
    """The one line with which a stage ends: what was written, and where."""
    print(sentence, flush=True)


def warn(sentence: str) -> None:
    """Something about this run that its result alone does not show."""
    print(f"fsgen: {sentence}", file=sys.stderr, flush=True)


def run(main: Callable) -> None:
    """Call `main` with flags read from its signature, and keep its time in scratch/timings/.

    A Complaint ends the process with code 1.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    for name in inspect.signature(main).parameters:
        parser.add_argument(f"--{name}", required=True)
    flags = vars(parser.parse_args())
    try:
        with timings.timed("@".join([Path(sys.argv[0]).stem, *flags.values()])):
            main(**flags)
    except UserError as complaint:
        print(f"fsgen: {complaint}", file=sys.stderr)
        raise SystemExit(1) from None
