"""Run by read_vs_forward.py in a fresh process: how far the resident set grows while texts are read."""

import contextlib
import resource
import sys
from pathlib import Path

import worlds
from read_vs_forward import batch, forward

from fsgen import reading, settings


def main(side: str) -> None:
    """Print the growth in MB for the pair `duo` of the current folder; `side` is ours or bare."""
    loaded = settings.load()
    worlds.forget("data/large")
    with worlds.in_memory(loaded, "writer", "reader") as held:
        batches = batch(worlds.read_texts("writer", held["writer"]), loaded.compute.read_tokens)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading the weights
        before = resident()
        if side == "ours":
            reading.dump_large(loaded, "duo")
        else:
            forward(held["reader"], batches)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)


def resident() -> float:
    """Resident set of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main(sys.argv[1])
