"""A kept run as a page of tables: results/<name>/README.md, made of that folder's files alone."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fsgen.report import findings_tables
from fsgen.report.formatting import markdown_table, percent, quality
from fsgen.report.kept_run import KeptRun, read_kept_run
from fsgen.report.summary import COMPARED_POLICIES


class Section(NamedTuple):
    """A section of the page: one table and its definition."""

    about: str
    """What the table shows; may be empty."""
    table: Callable[[KeptRun], str]


def page(name: str, folder: Path) -> str:
    """The findings in Markdown; the notes first, then one section for each table, with its definition."""
    run = read_kept_run(folder)
    parts = [f"# {name}", run.notes]
    for title, section in SECTIONS.items():
        parts += [f"## {title}", section.about, section.table(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def brief(folder: Path) -> str:
    """The run in one table: accuracies and CoF of every dataset, and those of COMPARED_POLICIES."""
    run = read_kept_run(folder)
    shown = [name for name in COMPARED_POLICIES if any(name in e["policies"] for _, _, e in run.pairs())]
    rows = []
    for dataset, _, entry in run.pairs():
        models = run.datasets[dataset]["models"]
        alone = [quality(models[entry[role]]) for role in ("small", "large")]
        routed = [quality(entry["policies"].get(name, {})) for name in shown]
        prompts = str(models[entry["small"]]["prompts"])
        rows.append([dataset, prompts, *alone, *routed, percent(entry["cof"]["oracle"], "value")])
    head = ["", "test prompts", "small alone", "large alone", *(f"`{name}`" for name in shown), "CoF"]
    return markdown_table(head, rows)


SECTIONS = {
    "The models alone": Section(
        "Accuracy on test prompts with Wilson's 95 % interval; the share that `max_new_tokens` cut off.",
        findings_tables.models_alone,
    ),
    "Collaboration frequency": Section(
        "CoF is the share of answer tokens at which the fused token differs from the small model's, on the "
        "text of `<method>+always`; intervals are 95 %, over prompts. `counted on` says where the text "
        "comes from. On the large model's own text it is another number; certified is the share of positions "
        "there at which the stored lists prove the fused token over the whole vocabulary.",
        findings_tables.collaboration_frequency,
    ),
    "Where the need sits": Section(
        "Share of all mismatches that lie in the tenth of the tokens with the highest entropy of the small "
        "model, and how well entropy and top probability rank mismatches above matches (AUROC; 50 % is "
        "chance), with 95 % intervals over prompts.",
        findings_tables.mismatch_by_uncertainty,
    ),
    "Accuracy against calls": Section(
        "Percent right with its 95 % interval, for the percent of answer tokens at which the large model was "
        "called, counted on each policy's own texts. The thresholds come from calibration prompts alone.",
        findings_tables.accuracy_against_calls,
    ),
    "Routers against a coin": Section(
        "Accuracy less that of `random` at the same achieved call ratio, in percentage points with a 95 % "
        "interval over the same prompts, then the share of resampled prompt sets on which the router wins. "
        "Where a router ran at fewer budgets, its accuracy is read off the line between its policies.",
        findings_tables.routers_against_random,
    ),
    "Off-policy estimates": Section(
        "Call ratio estimated off the dumps less the one counted in a rollout, in percentage points "
        "with a 95 % interval.",
        findings_tables.estimates_against_rollouts,
    ),
    "Drafting": Section(
        "Acceptance of the small model's tokens by the large one along its greedy text: greedy, and expected "
        "under sampling (its lower bound from the stored lists). Then the accepted tokens a round when K are "
        "drafted, the bonus token left out. 95 % intervals over prompts.",
        findings_tables.drafting,
    ),
    "Predictions of the published laws": Section(
        "Each law fitted to FS-GEN's published series of the same method and dataset (Qwen1.5), given "
        "all parameters of these models; its 95 % interval is for two models that it never saw.",
        findings_tables.published_laws,
    ),
    "Time": Section(
        "Of every attempt, killed ones included. Tokens are positions that went through models, prompts left "
        "out; the rate counts wall time, loading included.",
        findings_tables.stage_times,
    ),
    "Made with": Section("", findings_tables.environment),
}
