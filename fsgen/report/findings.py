"""A kept run as a page of tables: results/<name>/README.md, from what stands beside it and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from fsgen.config.parsing import read_yaml
from fsgen.report import headline
from fsgen.report.headline import grid
from fsgen.tables import files

NOTES = "notes.md"
BRIEF = ("oracle+entropy@20", "oracle+random@20")
DRAFTS = ("1", "3", "5", "10")  # tokens a round whose accepted lengths are shown


class Run(NamedTuple):
    """What a kept folder holds."""

    params: dict
    datasets: dict[str, dict]
    """Dataset to its metrics."""
    comparisons: dict
    uncertainty: dict
    scaling: dict
    environment: dict
    stages: list[dict]
    notes: str

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """From its files; Complaint where metrics are missing."""
        params = read_yaml(folder / "params.yaml")
        notes = folder / NOTES

        def told(name: str) -> dict:
            return files.read_metrics(folder / "metrics" / f"{name}.json")

        return cls(
            params,
            {name: told(name) for name in params["datasets"]},
            *(told(name) for name in ("comparisons", "uncertainty", "scaling")),
            files.read_metrics(folder / "environment.json"),
            pl.read_csv(folder / "stages.csv").to_dicts(),
            notes.read_text().strip() if notes.is_file() else "",
        )

    def pairs(self) -> Iterator[tuple[str, str, dict]]:
        """Dataset, pair, and the pair's metrics there."""
        for dataset, content in self.datasets.items():
            for pair, entry in content["pairs"].items():
                yield dataset, pair, entry

    def budgets(self) -> list[str]:
        """Budgets in percent that policies name, rising."""
        named = {str(policy).partition("@")[2] for policy in self.params["policies"] if "+" in str(policy)}
        return sorted(named - {""}, key=float)


def page(name: str, folder: Path) -> str:
    """The findings in Markdown; the notes first, then one section a table, each with its definition."""
    run = Run.read(folder)
    parts = [f"# {name}", run.notes]
    for title, (about, tell) in SECTIONS.items():
        parts += [f"## {title}", about, tell(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def brief(folder: Path) -> str:
    """The run in one table: accuracies and CoF of every dataset, and what asking where in doubt buys."""
    run, rows = Run.read(folder), []
    shown = [name for name in BRIEF if any(name in entry["policies"] for _, _, entry in run.pairs())]
    for dataset, _, entry in run.pairs():
        alone = [
            headline.quality(run.datasets[dataset]["models"][entry[role]]) for role in ("small", "large")
        ]
        asked = [headline.quality(entry["policies"].get(name, {})) for name in shown]
        prompts = run.datasets[dataset]["models"][entry["small"]]["prompts"]
        rows.append(
            [dataset, str(prompts), *alone, *asked, headline.percent(entry["cof"]["oracle"], "value")]
        )
    head = ["", "test prompts", "small alone", "large alone", *(f"`{name}`" for name in shown), "CoF"]
    return grid(head, rows)


def interval(number: dict | None, key: str, prefix: str = "") -> str:
    """A share as `headline.percent` has it; alone where it has no interval, a dash where there is none."""
    if not number or number.get(key) is None:
        return "-"
    if number.get(f"{prefix}low") is None:
        return f"{number[key]:.1%}".removesuffix("%")
    return headline.percent(number, key, prefix)


def _alone(run: Run) -> str:
    rows = []
    for dataset, content in run.datasets.items():
        for model, told in content["models"].items():
            length = f"{told['tokens'] / told['prompts']:.0f}"
            cut = f"{100 * told['truncated_share']:.0f}"
            rows.append([dataset, model, str(told["prompts"]), headline.quality(told), length, cut])
    return grid(["dataset", "model", "test prompts", "right, %", "tokens a text", "cut off, %"], rows)


def _frequency(run: Run) -> str:
    rows = []
    for dataset, pair, entry in run.pairs():
        for method, told in entry["cof"].items():
            read = entry["cof_on_large_text"].get(method, {})
            certified = "-" if "certified_share" not in read else f"{100 * read['certified_share']:.2f}"
            counted = [interval(told, "value"), f"{told['tokens']:,}", told["basis"]]
            rows.append([dataset, pair, method, *counted, interval(read, "value"), certified])
    head = ["dataset", "pair", "method", "CoF, %", "tokens", "basis", "on the large model's text, %"]
    return grid([*head, "certified, %"], rows)


def _need(run: Run) -> str:
    rows = []
    for dataset, pair, entry in run.pairs():
        for method in entry["cof"]:
            for writer, told in run.uncertainty[dataset][pair].get(method, {}).items():
                scores = told["scores"]
                auroc = {name: _of(scores, name, "auroc") for name in ("entropy", "max_probability")}
                held = _of(scores, "entropy", "top_10_percent_holds")
                rows.append([dataset, method, writer, held, *auroc.values()])
    head = ["dataset", "method", "text of", "10 % of highest entropy hold, %"]
    return grid([*head, "AUROC of entropy, %", "AUROC of top probability, %"], rows)


def _of(scores: dict, name: str, measure: str) -> str:
    return interval(scores.get(name, {}).get(measure), "value")


def _by_router(run: Run, cell) -> str:
    """A table whose rows are routers of a dataset and method, whose columns are budgets."""
    if not run.budgets():
        return "No policy of this run names a budget."
    rows = []
    for dataset, pair, entry in run.pairs():
        aimed = [name for name in entry["policies"] if "+" in name and "@" in name]
        for router in dict.fromkeys(name.partition("@")[0] for name in aimed):
            named = [f"{router}@{budget}" for budget in run.budgets()]
            rows.append([dataset, f"`{router}`", *(cell(dataset, pair, entry, name) for name in named)])
    return grid(["dataset", "method and router", *(f"at {b} %" for b in run.budgets())], rows)


def _frontier(run: Run) -> str:
    def cell(_dataset: str, _pair: str, entry: dict, policy: str) -> str:
        told = entry["policies"].get(policy)
        return f"{headline.quality(told)} for {100 * told['call_ratio']:.1f}" if told else "-"

    every = [
        f"<details><summary>{dataset}: every policy, percent</summary>\n\n{headline.policies(content)}\n\n"
        "</details>"
        for dataset, content in run.datasets.items()
    ]
    return "\n\n".join([_by_router(run, cell), *every])


def _coin(run: Run) -> str:
    def cell(dataset: str, pair: str, _entry: dict, policy: str) -> str:
        told = run.comparisons[dataset][pair]["against_random"].get(policy)
        return f"{interval(told, 'difference')}, {told['probability']:.3f}" if told else "-"

    return _by_router(run, cell)


def _estimates(run: Run) -> str:
    def cell(dataset: str, pair: str, _entry: dict, policy: str) -> str:
        told = run.comparisons[dataset][pair]["call_ratio_estimates"].get(policy)
        return interval(told, "difference", "difference_")

    return _by_router(run, cell)


def _drafting(run: Run) -> str:
    rows = []
    for dataset, pair, _ in run.pairs():
        told = run.comparisons[dataset][pair]
        lengths = []
        for draft in DRAFTS:
            found = told["accepted_length"].get(draft)
            said = found and f"{found['accepted']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
            lengths.append(said or "-")
        accepted = (interval(told["acceptance"].get(kind), "value") for kind in ("greedy", "sampled"))
        rows.append([dataset, *accepted, *lengths])
    return grid(["dataset", "greedy, %", "sampled, %", *(f"K = {draft}" for draft in DRAFTS)], rows)


def _foretold(run: Run) -> str:
    rows = [
        [
            dataset,
            row["method"],
            row["law"],
            interval(row, "cof"),
            interval(row, "predicted", "predicted_"),
            {True: "yes", False: "no", None: "no interval"}[row["agrees"]],
            row["extrapolates"] or "-",
        ]
        for dataset, methods in run.scaling.items()
        for told in methods.values()
        for row in told["foretold"]
    ]
    head = ["dataset", "method", "law", "measured, %", "foretold, %", "they meet", "outside the table"]
    return grid(head, rows) if rows else "No pair has a namesake series in the published table."


def _time(run: Run) -> str:
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
    return grid(["stage", "attempts", "wall, min", "CPU, min", "tokens", "tokens a second"], rows)


def _environment(run: Run) -> str:
    machine, versions = run.environment["machine"], run.environment["versions"]
    cards = ", ".join(machine["accelerators"]) or "no accelerator"
    lines = [
        f"* {machine['cpu']}, {machine['cores']} cores ({machine['instructions']}), "
        f"{machine['memory_gib']} GiB; {cards}; {machine['system']}",
        f"* fsgen at {run.environment['commit']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    for name, model in run.environment["models"].items():
        sizes = model["parameters"]
        lines.append(
            f"* {name}: {model['source']}, {sizes['total']:,} parameters ({sizes['non_embedding']:,} outside "
            f"vocabulary matrices), {model['dtype']} on {model['device']}, prompt {model['prompt']}"
        )
    return "\n".join(lines)


SECTIONS = {
    "The models alone": (
        "Accuracy on test prompts with Wilson's 95 % interval; the share that `max_new_tokens` cut off.",
        _alone,
    ),
    "Collaboration frequency": (
        "CoF is the share of answer tokens at which the fused token differs from the small model's, on the "
        "text of `<method>+always`; intervals are 95 %, by resampling prompts. `basis` says where that text "
        "comes from. On the large model's own text it is another number; certified is the share of positions "
        "there at which the stored lists prove the fused token over the whole vocabulary.",
        _frequency,
    ),
    "Where the need sits": (
        "Share of all mismatches that lie in the tenth of the tokens with the highest entropy of the small "
        "model, and how well entropy and top probability rank mismatches above matches (AUROC; 50 % is "
        "chance), with 95 % intervals over prompts.",
        _need,
    ),
    "Accuracy against calls": (
        "Percent right with its 95 % interval, for the percent of answer tokens at which the large model was "
        "called, counted on each policy's own texts. The thresholds come from calibration prompts alone.",
        _frontier,
    ),
    "Routers against a coin": (
        "Accuracy less that of `random` at the same achieved call ratio, in percentage points with a 95 % "
        "interval over the same prompts, then the share of resampled prompt sets on which the router wins. "
        "Where a router ran at fewer budgets, its accuracy is read off the line between its policies.",
        _coin,
    ),
    "Estimates beside the closed loop": (
        "Call ratio estimated off the dumps less the one counted in the closed loop, in percentage points "
        "with a 95 % interval.",
        _estimates,
    ),
    "Drafting": (
        "Acceptance of the small model's tokens by the large one along its greedy text: greedy, and expected "
        "under sampling (its lower bound from the stored lists). Then the accepted tokens a round when K are "
        "drafted, the bonus token left out. 95 % intervals over prompts.",
        _drafting,
    ),
    "The published laws, asked for this pair": (
        "Each law fitted to FS-GEN's published series of the same method and dataset (Qwen1.5), asked with "
        "all parameters of these models; its 95 % interval is for two models that it never saw.",
        _foretold,
    ),
    "Time": (
        "Of every attempt, killed ones included. Tokens are positions that went through models, prompts left "
        "out; the rate counts wall time, loading included.",
        _time,
    ),
    "Made with": ("", _environment),
}
