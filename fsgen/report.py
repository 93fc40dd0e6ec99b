"""What a person looks at first: the fitted laws, the figures and the headline table."""

import json
from pathlib import Path

from fsgen import console, figures, scaling
from fsgen.settings import Settings
from fsgen.typed import Complaint

METRICS, PLOTS = Path("metrics"), Path("plots")
EVALUATED = "data/evaluated/{}/metrics.json"


def read_metrics(settings: Settings, pattern: str = "metrics/{}.json") -> dict[str, dict]:
    """The numbers of every dataset in params.yaml."""
    found = {}
    for dataset in settings.datasets:
        path = Path(pattern.format(dataset))
        if not path.is_file():
            raise Complaint(f"There is no {path}; run 'dvc repro evaluate@{dataset}'.")
        found[dataset] = json.loads(path.read_text())
    return found


def write_scaling(settings: Settings) -> None:
    """Write metrics/scaling.json: points and laws of every dataset and method."""
    table = scaling.scaling_table(read_metrics(settings, EVALUATED))
    path = METRICS / "scaling.json"
    path.write_text(json.dumps(table, indent=2) + "\n")
    console.wrote(f"{path}: {len(scaling.LAWS)} laws for {sum(map(len, table.values()))} series")


def write_report(settings: Settings) -> None:
    """Write plots/cof.svg and plots/frontier/<dataset>.svg, and print the headline tables."""
    metrics = read_metrics(settings, EVALUATED)
    figures.cof(json.loads((METRICS / "scaling.json").read_text()), PLOTS / "cof.svg")
    for dataset, content in metrics.items():
        if any("accuracy" in model for model in content["models"].values()):
            figures.frontier(content, PLOTS / "frontier" / f"{dataset}.svg")
        print(headline_table(dataset, content))
    console.wrote(f"{PLOTS}/: cof.svg and frontier/ for {', '.join(metrics)}")


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
