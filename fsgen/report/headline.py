"""The headline: both models' accuracy and every method's CoF, by pair; what asking where in doubt buys."""

from pathlib import Path

from fsgen.config.schema import Settings
from fsgen.tables import files

CAPTION = (
    "accuracy and collaboration frequency (CoF: share of tokens that the large model changes when it is "
    "always asked), percent with 95 % intervals over prompts"
)
BESIDE = ("oracle+entropy@20", "oracle+random@20")
EVALUATED = "data/evaluated/{}/metrics.json"  # the copy of metrics/<dataset>.json that DVC knows of


def print_headline(settings: Settings, pattern: str = "metrics/{}.json") -> None:
    """Print the headline table of every dataset."""
    for dataset in settings.datasets:
        print(markdown(dataset, files.read_metrics(Path(pattern.format(dataset)))))


def markdown(dataset: str, content: dict) -> str:
    """The table of a dataset, from what metrics/<dataset>.json holds, in Markdown."""
    head, rows = table(content)
    return f"**{dataset}**: {CAPTION}\n\n{grid(head, rows)}"


def table(content: dict) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a pair, accuracy (or rating) of both models, and CoF of every method."""
    methods = sorted({method for pair in content["pairs"].values() for method in pair["cof"]})
    methods = [method for method in methods if method != "speculative"]  # the oracle's own numbers
    rows = []
    for name, pair in content["pairs"].items():
        cells = [quality(content["models"][pair[role]]) for role in ("small", "large")]
        rows.append([name, *cells, *(percent(pair["cof"].get(method), "value") for method in methods)])
    return ["pair", "small alone", "large alone", *(f"CoF {method}" for method in methods)], rows


def policies(content: dict) -> str:
    """Every policy's quality, calls and interventions, in Markdown, percent with 95 % intervals."""
    rows = []
    for pair, entry in content["pairs"].items():
        for name, told in entry["policies"].items():
            ratios = [percent(told, f"{kind}_ratio", f"{kind}_ratio_") for kind in ("call", "intervention")]
            rows.append([pair, name, quality(told), *ratios])
    return grid(["pair", "policy", "right", "called", "changed"], rows)


def sentences(content: dict) -> list[str]:
    """What asking where the small model is unsure buys, a sentence for each pair that ran BESIDE."""
    told = []
    for name, pair in content["pairs"].items():
        asked, coin = map(pair["policies"].get, BESIDE)
        if asked and coin and "accuracy" in asked:
            calls = percent(asked, "call_ratio", "call_ratio_")
            small, large = (quality(content["models"][pair[role]]) for role in ("small", "large"))
            told.append(
                f"{name}: calls at the 20 % most uncertain tokens ({calls} of the test tokens) give "
                f"{percent(asked)} right; as many calls at random, {percent(coin)}; the small model alone, "
                f"{small}; the large one, {large}."
            )
    return told


def percent(number: dict | None, key: str = "accuracy", prefix: str = "") -> str:
    """A share with its interval, in percent: 12.3 (10.1 to 14.9); a dash where there is none."""
    if number is None or key not in number:
        return "-"
    low, high = number[f"{prefix}low"], number[f"{prefix}high"]
    return f"{number[key]:.1%} ({low:.1%} to {high:.1%})".replace("%", "")


def grid(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def quality(model: dict) -> str:
    """A model's accuracy or a judge's mean rating; a dash without either."""
    if "rating" in model:
        return f"rated {model['rating']:.2f} ({model['rating_low']:.2f} to {model['rating_high']:.2f})"
    return percent(model)
