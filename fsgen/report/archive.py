"""results/<name>/: what a finished run found, with everything needed to judge it, small enough for git."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from fsgen.config.schema import Settings
from fsgen.errors import UserError
from fsgen.execution import console, timings
from fsgen.report import environment, findings
from fsgen.report.kept_run import NOTES
from fsgen.report.report import PLOTS
from fsgen.tables import files

RESULTS = Path("results")
METRICS = Path("metrics")
AGGREGATES = ("comparisons", "scaling", "uncertainty")  # metrics over all datasets


def archive(settings: Settings, name: str) -> Path:
    """Keep the run of this folder under results/<name>/; returns that folder.

    It gets params.yaml, the metrics, the figures as SVG and the page with the token explorer, what the
    run was made with, the time of every stage, and README.md, the findings as tables. A `notes.md` that
    is there is kept, and opens the findings. Raises UserError where the name is no folder's name, and
    where metrics or figures are missing.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"'{name}' should be a plain name of letters, digits, _ and -, such as qwen-coder.")
    if not (PLOTS / "report.html").is_file():
        raise UserError(f"There is no {PLOTS}/report.html; run 'dvc repro'.")
    out = RESULTS / name
    with files.atomic_folder(out) as folder:
        _copy_metrics(settings.datasets, folder)
        _copy_plots(folder)
        if (out / NOTES).is_file():
            shutil.copy(out / NOTES, folder)
        (folder / "environment.json").write_text(
            json.dumps(environment.describe(settings.models, settings.compute), indent=2) + "\n"
        )
        timings.summarise(timings.KEPT).write_csv(folder / "stages.csv", float_precision=1)
        (folder / "README.md").write_text(findings.page(name, folder))
    console.done(f"{out}: findings of {', '.join(settings.datasets)}; write {NOTES} to comment them")
    return out


def _copy_metrics(datasets: Iterable[str], folder: Path) -> None:
    """Copy params.yaml and the metrics; raises UserError where one is missing."""
    shutil.copy("params.yaml", folder)
    (folder / METRICS).mkdir()
    for name in (*datasets, *AGGREGATES):
        source = METRICS / f"{name}.json"
        files.read_metrics(source)
        shutil.copy(source, folder / METRICS)


def _copy_plots(folder: Path) -> None:
    """Copy the page, and the figures as SVG."""
    for source in (*PLOTS.rglob("*.svg"), PLOTS / "report.html"):
        target = folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
