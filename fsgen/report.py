"""What a person looks at first: the figures and the headline table."""

from pathlib import Path

from fsgen import console, lake, store
from fsgen.figures import gallery
from fsgen.settings import Settings

PLOTS = Path("plots")


def write_report(settings: Settings) -> None:
    """Draw every figure of the gallery whose query finds something into plots/, and print the headline."""
    tables, drawn = lake.connect(), 0
    with store.appear(PLOTS) as folder:
        for name, entry in gallery.FIGURES.items():
            frame = tables.sql(gallery.query(name)).pl()
            parts = frame.partition_by("dataset", as_dict=True) if entry.by_dataset else {(): frame}
            for dataset, part in parts.items():
                if len(part) and set(dataset) <= settings.datasets.keys():
                    gallery.save(name, part, folder.joinpath(name, *dataset))
                    drawn += 1
    print_headline(settings, "data/evaluated/{}/metrics.json")  # where DVC knows of it
    console.wrote(f"{PLOTS}/: {drawn} figures, each as SVG and PNG")


def print_headline(settings: Settings, pattern: str = "metrics/{}.json") -> None:
    """Print the headline table of every dataset."""
    for dataset in settings.datasets:
        print(headline_table(dataset, store.read_metrics(Path(pattern.format(dataset)))))


def headline_table(dataset: str, content: dict) -> str:
    """Markdown table of a dataset: accuracies (or ratings) of both models and every method's CoF."""
    methods = sorted({method for pair in content["pairs"].values() for method in pair["cof"]})
    methods = [method for method in methods if method != "speculative"]  # the oracle's own numbers
    lines = [
        f"**{dataset}**: accuracy and collaboration frequency (CoF: share of tokens that the large model "
        "changes when it is always asked), percent with 95 % intervals over prompts",
        "",
        "| pair | small alone | large alone | " + " | ".join(f"CoF {method}" for method in methods) + " |",
        "|---" * (3 + len(methods)) + "|",
    ]
    for name, pair in content["pairs"].items():
        cells = [_quality(content["models"][pair[role]]) for role in ("small", "large")]
        cells += [_percent(pair["cof"].get(method), "value") for method in methods]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _quality(model: dict) -> str:
    """A model's accuracy or a judge's mean rating; a dash without either."""
    if "rating" in model:
        return f"rated {model['rating']:.2f} ({model['rating_low']:.2f} to {model['rating_high']:.2f})"
    return _percent(model, "accuracy")


def _percent(number: dict | None, key: str) -> str:
    if number is None or key not in number:
        return "-"
    return f"{number[key]:.1%} ({number['low']:.1%} to {number['high']:.1%})".replace("%", "")
