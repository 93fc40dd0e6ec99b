"""What lies under data/ and metrics/ of pairs, models and datasets that params.yaml no longer names."""

import shutil
from pathlib import Path

from fsgen.checks import RESERVED
from fsgen.settings import Settings

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


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
