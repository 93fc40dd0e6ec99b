"""Wall seconds of a `dvc repro` that has nothing to do, in a copy of the project."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sidebyside import REPETITIONS, Row, write_result

ROOT = Path(__file__).parent.parent
FILES = ("dvc.yaml", "dvc.lock", "params.yaml", ".dvcignore")
PARTS = ("stages", "fsgen", "queries", "data", "metrics", "plots", *FILES)
UP_TO_DATE = "Data and pipelines are up to date."
ROW = Row(
    what="`dvc repro` on the default with nothing to do",
    against="wall clock",
    target=6,
    definition="Median wall seconds of the whole command, interpreter included, "
    "once DVC has hashed the copied files.",
    unit="s",
    bound="at most",
)


def main() -> None:
    """Time the command in a copy; exits with a sentence where a stage is stale."""
    with tempfile.TemporaryDirectory() as home:
        copy_project(Path(home))
        stale = dvc(Path(home), "status").strip()  # fills DVC's table of file hashes, too
        if stale != UP_TO_DATE:
            raise SystemExit(
                f"The project is stale, so there is no no-op to time; run 'dvc repro' first.\n{stale}"
            )
        seconds = [time_repro(Path(home)) for _ in range(REPETITIONS)]
    rest = {"repetitions": {"ours": seconds}, "sizes": {"stages": count_stages()}}
    write_result(Path(__file__).stem, ROW, statistics.median(seconds), rest)


def copy_project(home: Path) -> None:
    """What DVC looks at, cache included, outside git."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, home / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy2(source, home / part)
    (home / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", home / ".dvc/config")
    shutil.copytree(ROOT / ".dvc/cache", home / ".dvc/cache")
    dvc(home, "config", "core.no_scm", "true")


def time_repro(home: Path) -> float:
    """Wall seconds of one command that does nothing."""
    start = time.perf_counter()
    reported = dvc(home, "repro")
    seconds = time.perf_counter() - start
    if UP_TO_DATE not in reported:
        raise SystemExit(f"dvc repro had something to do:\n{reported}")
    return seconds


def dvc(home: Path, *words: str) -> str:
    """What a DVC command prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(home), "PATH": path}
    done = subprocess.run(
        ["dvc", *words], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"dvc {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def count_stages() -> int:
    """Stages that the lock file holds."""
    import yaml

    return len(yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"])


if __name__ == "__main__":
    main()
