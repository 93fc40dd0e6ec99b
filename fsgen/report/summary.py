"""The summary: both models' accuracy and every method's CoF, by pair; what asking at uncertain tokens buys.

Functions take the content of metrics/<dataset>.json.
"""

from fsgen.config.registry import RULES, resolve
from fsgen.report.formatting import markdown_table, percent, quality

CAPTION = (
    "accuracy and collaboration frequency (CoF: share of tokens that the large model changes when it is "
    "always called), percent with 95 % intervals over prompts"
)
COMPARED_POLICIES = ("oracle+entropy@20", "oracle+random@20")


def print_summary(metrics: dict[str, dict]) -> None:
    """Print the summary table of every dataset; `metrics` are their contents by dataset."""
    for dataset, content in metrics.items():
        print(markdown(dataset, content))


def markdown(dataset: str, content: dict) -> str:
    """The summary table of a dataset in Markdown, below its caption."""
    head, rows = table(content)
    return f"**{dataset}**: {CAPTION}\n\n{markdown_table(head, rows)}"


def table(content: dict) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a pair, accuracy (or rating) of both models, and CoF of every method."""
    methods = _summary_methods(content)
    rows = []
    for name, pair in content["pairs"].items():
        qualities = [quality(content["models"][pair[role]]) for role in ("small", "large")]
        rows.append([name, *qualities, *(percent(pair["cof"].get(method), "value") for method in methods)])
    return ["pair", "small alone", "large alone", *(f"CoF {method}" for method in methods)], rows


def _summary_methods(content: dict) -> list[str]:
    """Methods of any pair, sorted; less a drafting rule of its own name, whose CoF is the oracle's."""
    methods = {method for pair in content["pairs"].values() for method in pair["cof"]}
    drafting = {name for name in methods & RULES.keys() if resolve(RULES, name, "the rules").drafts}
    return sorted(methods - drafting)


def policies(content: dict) -> str:
    """Every policy's quality, calls and interventions, in Markdown, percent with 95 % intervals."""
    rows = []
    for pair, entry in content["pairs"].items():
        for name, policy in entry["policies"].items():
            ratios = [percent(policy, f"{kind}_ratio", f"{kind}_ratio_") for kind in ("call", "intervention")]
            rows.append([pair, name, quality(policy), *ratios])
    return markdown_table(["pair", "policy", "right", "called", "changed"], rows)


def sentences(content: dict) -> list[str]:
    """What calls at uncertain tokens buy, a sentence for each pair that ran both COMPARED_POLICIES."""
    lines = []
    for name, pair in content["pairs"].items():
        uncertain, random = map(pair["policies"].get, COMPARED_POLICIES)
        if uncertain and random and "accuracy" in uncertain:
            calls = percent(uncertain, "call_ratio", "call_ratio_")
            small, large = (quality(content["models"][pair[role]]) for role in ("small", "large"))
            lines.append(
                f"{name}: calls at the 20 % most uncertain tokens ({calls} of the test tokens) give "
                f"{percent(uncertain)} right; as many calls at random, {percent(random)}; the small model "
                f"alone, {small}; the large one, {large}."
            )
    return lines
