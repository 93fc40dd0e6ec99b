"""The tables of a kept run's page: each a function from the run to Markdown."""

from collections.abc import Callable

from fsgen.report import summary
from fsgen.report.formatting import markdown_table, percent_if_known, quality
from fsgen.report.kept_run import KeptRun

DRAFTS = ("1", "3", "5", "10")  # tokens a round whose accepted lengths are shown


def models_alone(run: KeptRun) -> str:
    """Accuracy, length and truncation of every model's own texts."""
    rows = []
    for dataset, content in run.datasets.items():
        for name, model in content["models"].items():
            length = f"{model['tokens'] / model['prompts']:.0f}"
            truncated = f"{100 * model['truncated_share']:.0f}"
            rows.append([dataset, name, str(model["prompts"]), quality(model), length, truncated])
    head = ["dataset", "model", "test prompts", "right, %", "tokens a text", "cut off, %"]
    return markdown_table(head, rows)


def collaboration_frequency(run: KeptRun) -> str:
    """CoF of every method, on its own text and on the large model's."""
    rows = []
    for dataset, pair, entry in run.pairs():
        for method, cof in entry["cof"].items():
            on_large = entry["cof_on_large_text"].get(method, {})
            certified = (
                "-" if "certified_share" not in on_large else f"{100 * on_large['certified_share']:.2f}"
            )
            counts = [percent_if_known(cof, "value"), f"{cof['tokens']:,}", cof["counted_on"]]
            rows.append([dataset, pair, method, *counts, percent_if_known(on_large, "value"), certified])
    head = ["dataset", "pair", "method", "CoF, %", "tokens", "counted on", "on the large model's text, %"]
    return markdown_table([*head, "certified, %"], rows)


def mismatch_by_uncertainty(run: KeptRun) -> str:
    """How well uncertainty ranks mismatches, by method and by writer of the text."""
    rows = []
    for dataset, pair, entry in run.pairs():
        for method in entry["cof"]:
            for writer, metrics in run.uncertainty[dataset][pair].get(method, {}).items():
                rows.append([dataset, method, writer, *_ranking_cells(metrics["scores"])])
    head = ["dataset", "method", "text of", "10 % of highest entropy hold, %"]
    return markdown_table([*head, "AUROC of entropy, %", "AUROC of top probability, %"], rows)


def _ranking_cells(scores: dict) -> list[str]:
    shown = [("entropy", "top_10_percent_holds"), ("entropy", "auroc"), ("max_probability", "auroc")]
    return [percent_if_known(scores.get(score, {}).get(metric), "value") for score, metric in shown]


def _table_by_router(run: KeptRun, cell: Callable[[str, str, dict, str], str]) -> str:
    """A table whose rows are routers of a dataset and method, whose columns are budgets.

    `cell` is called with dataset, pair, the pair's metrics and the policy's name.
    """
    budgets = run.budgets()
    if not budgets:
        return "No policy of this run names a budget."
    rows = []
    for dataset, pair, entry in run.pairs():
        budgeted = [name for name in entry["policies"] if "+" in name and "@" in name]
        for router in dict.fromkeys(name.partition("@")[0] for name in budgeted):
            cells = [cell(dataset, pair, entry, f"{router}@{budget}") for budget in budgets]
            rows.append([dataset, f"`{router}`", *cells])
    return markdown_table(["dataset", "method and router", *(f"at {b} %" for b in budgets)], rows)


def accuracy_against_calls(run: KeptRun) -> str:
    """Accuracy and calls of every router and budget, then of every policy of a dataset, folded."""

    def cell(_dataset: str, _pair: str, entry: dict, policy: str) -> str:
        metrics = entry["policies"].get(policy)
        return f"{quality(metrics)} for {100 * metrics['call_ratio']:.1f}" if metrics else "-"

    every_policy = [
        f"<details><summary>{dataset}: every policy, percent</summary>\n\n{summary.policies(content)}\n\n"
        "</details>"
        for dataset, content in run.datasets.items()
    ]
    return "\n\n".join([_table_by_router(run, cell), *every_policy])


def routers_against_random(run: KeptRun) -> str:
    """Accuracy of every router less that of random calls, and how often it is higher."""

    def cell(dataset: str, pair: str, _entry: dict, policy: str) -> str:
        gain = run.comparisons[dataset][pair]["against_random"].get(policy)
        if not gain:
            return "-"
        difference = percent_if_known(gain, "accuracy_difference", "accuracy_difference_")
        return f"{difference}, {gain['win_probability']:.3f}"

    return _table_by_router(run, cell)


def estimates_against_rollouts(run: KeptRun) -> str:
    """Call ratios estimated off the dumps less those of rollouts."""

    def cell(dataset: str, pair: str, _entry: dict, policy: str) -> str:
        estimate = run.comparisons[dataset][pair]["call_ratio_estimates"].get(policy)
        return percent_if_known(estimate, "difference", "difference_")

    return _table_by_router(run, cell)


def drafting(run: KeptRun) -> str:
    """Acceptance rates, and accepted lengths for some K."""
    rows = []
    for dataset, pair, _ in run.pairs():
        metrics = run.comparisons[dataset][pair]
        rates = [
            percent_if_known(metrics["acceptance"].get(mode), "rate", "rate_")
            for mode in ("greedy", "sampled")
        ]
        lengths = [_length(metrics["accepted_length"].get(draft)) for draft in DRAFTS]
        rows.append([dataset, *rates, *lengths])
    return markdown_table(["dataset", "greedy, %", "sampled, %", *(f"K = {draft}" for draft in DRAFTS)], rows)


def _length(length: dict | None) -> str:
    """Accepted tokens a round with their interval; a dash where there is none."""
    if not length:
        return "-"
    return f"{length['value']:.2f} ({length['low']:.2f} to {length['high']:.2f})"


def published_laws(run: KeptRun) -> str:
    """What the published laws predicted for the pairs, with what was measured."""
    rows = [
        [
            dataset,
            row["method"],
            row["law"],
            percent_if_known(row, "cof", "cof_"),
            percent_if_known(row, "predicted", "predicted_"),
            {True: "yes", False: "no", None: "no interval"}[row["intervals_overlap"]],
            row["extrapolation_note"] or "-",
        ]
        for dataset, methods in run.scaling.items()
        for series in methods.values()
        for row in series["predictions"]
    ]
    head = ["dataset", "method", "law", "measured, %", "predicted, %", "intervals overlap", "extrapolation"]
    return markdown_table(head, rows) if rows else "No pair has a namesake series in the published table."


def stage_times(run: KeptRun) -> str:
    """Wall and CPU time of every stage, and its rate."""
    rows = [
        [
            f"`{row['stage']}`",
            f"{row['attempts']} ({row['unfinished']} killed)" if row["unfinished"] else str(row["attempts"]),
            f"{row['wall_s'] / 60:.1f}",
            f"{row['cpu_s'] / 60:.1f}",
            f"{row['tokens']:,}" if row["tokens"] else "-",
            f"{row['tokens_per_s']:.0f}" if row["tokens"] else "-",
        ]
        for row in run.stages
    ]
    head = ["stage", "attempts", "wall, min", "CPU, min", "tokens", "tokens a second"]
    return markdown_table(head, rows)


def environment(run: KeptRun) -> str:
    """Machine, versions, and models with their precision, as a list."""
    machine, versions = run.environment["machine"], run.environment["versions"]
    accelerators = ", ".join(machine["accelerators"]) or "no accelerator"
    lines = [
        f"* {machine['cpu']}, {machine['cores']} cores ({machine['instructions']}), "
        f"{machine['memory_gib']} GiB; {accelerators}; {machine['system']}",
        f"* fsgen at {run.environment['commit']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    for name, model in run.environment["models"].items():
        sizes = model["parameters"]
        lines.append(
            f"* {name}: {model['source']}, {sizes['total']:,} parameters ({sizes['non_embedding']:,} outside "
            f"vocabulary matrices), {model['dtype']} on {model['device']}, {model['prompt_format']} prompts"
        )
    return "\n".join(lines)
