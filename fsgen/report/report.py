"""plots/: every figure of the gallery, and the page."""

from pathlib import Path

from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.report import explorer, headline, page
from fsgen.report.figures import gallery
from fsgen.tables import files, lake

PLOTS = Path("plots")


def write_report(settings: Settings) -> None:
    """Draw all figures whose query finds something, write the page, and print the headline."""
    with files.atomic_folder(PLOTS) as folder:
        numbers = {
            name: files.read_metrics(Path(headline.EVALUATED.format(name))) for name in settings.datasets
        }
        drawn = _draw(settings, folder)
        figures = [(name, dataset, place.with_suffix(".svg")) for name, dataset, place in drawn]
        text = page.build(numbers, figures, explorer.explore(settings))
        (folder / "report.html").write_text(text)
    headline.print_headline(settings, headline.EVALUATED)
    console.done(
        f"{PLOTS}/: {len(drawn)} figures, each as SVG and PNG; report.html, {len(text.encode()) / 1e6:.1f} MB"
    )


def _draw(settings: Settings, folder: Path) -> list[tuple[str, str | None, Path]]:
    """Name, dataset and place of every figure drawn."""
    tables, drawn = lake.connect(), []
    for name, entry in gallery.FIGURES.items():
        frame = tables.sql(gallery.query(name)).pl()
        parts = frame.partition_by("dataset", as_dict=True) if entry.by_dataset else {(): frame}
        for key, part in parts.items():
            if len(part) and set(key) <= settings.datasets.keys():
                place = folder.joinpath(name, *key)
                gallery.save(name, part, place)
                drawn.append((name, key[0] if key else None, place))
    return drawn
