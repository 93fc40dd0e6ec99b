"""What a stage prints: a progress bar, one closing line, one sentence if it fails."""

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from fsgen.errors import UserError
from fsgen.execution import timings


class Bar(tqdm):
    """A progress bar that also shows tokens per second."""

    tokens = 0

    def advance(self, done: int = 0, tokens: int = 0) -> None:
        """Add finished units, and tokens that went through a model since the last call."""
        self.tokens += tokens
        timings.count(tokens)
        elapsed = max(self.format_dict["elapsed"], 1e-9)
        self.set_postfix_str(f"{self.tokens / elapsed:.0f} tokens/s", refresh=False)
        self.update(done)


class TokenCounter:
    """Takes the place of a bar where none is drawn."""

    tokens = 0

    def advance(self, done: int = 0, tokens: int = 0) -> None:
        """Add the tokens."""
        self.tokens += tokens


def progress(total: int, unit: str, label: str) -> Bar:
    """A bar with rates and time left, for a `with` block.

    It is drawn twice a second on a terminal, and twice a minute into a log.
    """
    interval_s = 0.5 if sys.stderr.isatty() else 30
    return Bar(total=total, unit=f" {unit}", desc=label, mininterval=interval_s, smoothing=0.1, leave=False)


def done(sentence: str) -> None:
    """Print the closing line of a stage: what was written, and where."""
    print(sentence, flush=True)


def warn(sentence: str) -> None:
    """Print something about this run that its result does not show."""
    print(f"fsgen: {sentence}", file=sys.stderr, flush=True)


def run(main: Callable) -> None:
    """Call `main` with flags named by its parameters, and record its time in scratch/timings/.

    A UserError is printed as one sentence and ends the process with code 1.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    for name in inspect.signature(main).parameters:
        parser.add_argument(f"--{name}", required=True)
    flags = vars(parser.parse_args())
    try:
        with timings.timed("@".join([Path(sys.argv[0]).stem, *flags.values()])):
            main(**flags)
    except UserError as error:
        print(f"fsgen: {error}", file=sys.stderr)
        raise SystemExit(1) from None
