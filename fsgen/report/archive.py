"""results/<name>/: what a finished run found, with everything needed to judge it, small enough for git."""

import json
import re
import shutil
from pathlib import Path

from fsgen.config.schema import Settings
from fsgen.errors import UserError
from fsgen.execution import console, timings
from fsgen.report import environment, findings
from fsgen.tables import files

RESULTS = Path("results")
SHARED = ("comparisons", "scaling", "uncertainty")  # metrics over all datasets


def archive(settings: Settings, name: str) -> Path:
    """Keep the run that lies here under results/<name>/; returns that folder.

    It gets params.yaml, the metrics, the figures as SVG and the page with the token explorer, what the
    run was made with, the time of every stage, and README.md, the findings as tables. A `notes.md` that
    stands there is kept, and its words open the findings. Raises Complaint on a name that is no
    folder's, and where metrics or figures are missing.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"'{name}' should be a plain name of letters, digits, _ and -, such as qwen-coder.")
    if not Path("plots/report.html").is_file():
        raise UserError("There is no plots/report.html; run 'dvc repro'.")
    out = RESULTS / name
    with files.atomic_folder(out) as folder:
        _copy(settings, folder)
        if (out / findings.NOTES).is_file():
            shutil.copy(out / findings.NOTES, folder)
        (folder / "environment.json").write_text(json.dumps(environment.describe(settings), indent=2) + "\n")
        timings.summarise(timings.KEPT).write_csv(folder / "stages.csv", float_precision=1)
        (folder / "README.md").write_text(findings.page(name, folder))
    console.done(f"{out}: findings of {', '.join(settings.datasets)}; write {findings.NOTES} to comment them")
    return out


def _copy(settings: Settings, folder: Path) -> None:
    shutil.copy("params.yaml", folder)
    (folder / "metrics").mkdir()
    for one in (*settings.datasets, *SHARED):
        source = Path("metrics") / f"{one}.json"
        files.read_metrics(source)
        shutil.copy(source, folder / "metrics")
    for source in (*Path("plots").rglob("*.svg"), Path("plots/report.html")):
        target = folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
