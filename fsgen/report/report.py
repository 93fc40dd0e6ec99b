"""The `report` stage: plots/ with every figure of the gallery, and the page."""

from collections.abc import Container
from pathlib import Path

from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.report import explorer, page, summary
from fsgen.report.figures import gallery
from fsgen.tables import files, lake, paths

PLOTS = Path("plots")


def write_report(settings: Settings) -> None:
    """Draw all figures whose query finds something, write the page, and print the summary."""
    metrics = {name: files.read_metrics(paths.counts(name) / "metrics.json") for name in settings.datasets}
    with files.atomic_folder(PLOTS) as folder:
        figures = _draw_figures(settings.datasets, folder)
        text = page.build(metrics, figures, explorer.explore(settings))
        (folder / "report.html").write_text(text)
    summary.print_summary(metrics)
    size = len(text.encode()) / 1e6
    console.done(f"{PLOTS}/: {len(figures)} figures, each as SVG and PNG; report.html, {size:.1f} MB")


def _draw_figures(datasets: Container[str], folder: Path) -> list[page.SavedFigure]:
    """Draw the figures of all datasets in params.yaml into the folder."""
    connection = lake.connect()
    figures = []
    for name, entry in gallery.FIGURES.items():
        frame = connection.sql(gallery.query(name)).pl()
        parts = frame.partition_by("dataset", as_dict=True) if entry.by_dataset else {(): frame}
        for key, rows in parts.items():
            if len(rows) and all(dataset in datasets for dataset in key):
                stem = folder.joinpath(name, *key)
                gallery.save(name, rows, stem)
                figures.append(page.SavedFigure(name, key[0] if key else None, stem.with_suffix(".svg")))
    return figures
