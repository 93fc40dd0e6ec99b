"""Run by read_vs_forward.py in a fresh process: how far the resident set grows while texts are read."""

import contextlib
import sys
from pathlib import Path

import worlds
from read_vs_forward import batch, forward

from fsgen.config.load import load_settings
from fsgen.decoding import dump_teacher_forced


def main(side: str) -> None:
    """Print the growth in MB for the pair `duo` of the current folder; `side` is ours or bare."""
    loaded = load_settings()
    worlds.forget("data/teacher_forced/large")
    with worlds.in_memory(loaded, "writer", "reader") as held:
        batches = batch(worlds.read_texts("writer", held["writer"]), loaded.compute.max_batch_tokens)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading the weights
        before = status("VmRSS")
        if side == "ours":
            dump_teacher_forced.dump_large(loaded, "duo")
        else:
            forward(held["reader"], batches)
    print(status("VmHWM") - before)


def status(name: str) -> float:
    """A size from this process's status in MB; ru_maxrss would still hold the peak of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main(sys.argv[1])
