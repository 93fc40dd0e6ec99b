"""`fsgen prune`: remove outputs of names that params.yaml no longer holds."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from fsgen.config.load import load_settings
from fsgen.config.schema import Settings
from fsgen.config.validation import RESERVED
from fsgen.execution import console
from fsgen.tables import paths

METRICS = Path("metrics")
# Section of params.yaml to the places of its outputs: each is called with a name of the section, and the
# last part of the path that it returns is that name, with or without an ending.
OUTPUTS = {
    "pairs": (
        paths.read_by_large,
        paths.read_by_small,
        paths.fused,
        paths.routes,
        paths.rollouts,
        paths.rollout_logits,
        paths.policy_grades,
    ),
    "models": (paths.dumps, paths.model_description, paths.vocabulary, paths.model_grades),
    "datasets": (paths.prompts, paths.counts, paths.comparisons, paths.uncertainty),
}


def prune(yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False):
    """Remove outputs of pairs, models and datasets that params.yaml no longer names.

    Example: `fsgen prune`
    """
    leftovers = find_leftovers(load_settings())
    for path in leftovers:
        print(f"{count_bytes(path) / 1e6:9.1f} MB  {path}")
    if not leftovers:
        console.done("Nothing to remove: everything under data/ and metrics/ is named in params.yaml.")
    elif yes or typer.confirm(f"Remove these {len(leftovers)}?"):
        for path in leftovers:
            remove(path)
        console.done(f"Removed {len(leftovers)}.")
    else:
        console.done("Removed nothing.")


def find_leftovers(settings: Settings) -> list[Path]:
    """Outputs of names that params.yaml does not hold, sorted; outputs that names share are left out."""
    leftovers = []
    for section, places in OUTPUTS.items():
        names = getattr(settings, section)
        for path_of in places:
            outputs = path_of("any").parent.glob("*")
            leftovers += [path for path in outputs if path.stem not in names]
    metrics = RESERVED | settings.datasets.keys()
    return sorted(leftovers + [path for path in METRICS.glob("*.json") if path.stem not in metrics])


def count_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
