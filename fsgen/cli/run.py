"""`fsgen run`: run one combination without editing params.yaml."""

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from fsgen.config.parsing import read_yaml
from fsgen.execution import console

PARAMS = Path("params.yaml")


def run(
    large: Annotated[str, typer.Option(help="Hub id (or id@commit), or a checkpoint's folder.")],
    small: Annotated[str, typer.Option(help="The same.")],
    dataset: Annotated[str, typer.Option(help="A key of datasets in params.yaml, or a task.")],
    tuned: Annotated[str | None, typer.Option(help="The small model after fine-tuning, for proxy.")] = None,
    data: Annotated[str | None, typer.Option(help="Local data of the task; else the hub's.")] = None,
    method: Annotated[
        str, typer.Option(help="A rule or a method of params.yaml; speculative@K drafts.")
    ] = "oracle",
    router: Annotated[
        str | None, typer.Option(help="With its budget, as in entropy@20; else always.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Prompts, calibration and test together.")] = 100,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Of a turn, for a task that params.yaml does not name.")
    ] = 256,
    prompt: Annotated[str, typer.Option(help="Prompt format: plain or chat.")] = "plain",
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution", help="For mbpp.")] = False,
):
    """Run one combination without editing params.yaml, in runs/.

    Example: `fsgen run --large data/embedded/base-87k --small data/embedded/base-23k --dataset arith`
    """
    from fsgen.cli import single_run

    request = single_run.RunRequest(
        large=large,
        small=small,
        tuned=tuned,
        dataset=dataset,
        data=data,
        method=method,
        router=router,
        limit=limit,
        max_new_tokens=max_new_tokens,
        prompt=prompt,
        allow_code_execution=allow_code_execution,
    )
    folder = single_run.run(request)
    _print_results(folder, dataset)
    print(explain_merge(single_run.params_to_merge(read_yaml(folder / "params.yaml"))))


def _print_results(folder: Path, dataset: str) -> None:
    """Print the summary and every policy of a run; warn where the small model is the larger one."""
    from fsgen.cli import cost_estimates
    from fsgen.report import summary

    metrics = json.loads((folder / "metrics" / f"{dataset}.json").read_text())
    print(f"{summary.markdown(dataset, metrics)}\n\n{summary.policies(metrics)}\n")
    sizes = {name: model["total_parameters"] for name, model in metrics["models"].items()}
    for warning in cost_estimates.warn_of_swapped_pairs(metrics["pairs"], sizes):
        console.warn(warning)


def explain_merge(sections: dict) -> str:
    """How to keep the pair: the lines of these sections that the params.yaml here lacks."""
    present = read_yaml(PARAMS) if PARAMS.is_file() else {}
    missing = {
        section: _missing_entries(section, entries, present.get(section) or {})
        for section, entries in sections.items()
    }
    missing = {section: entries for section, entries in missing.items() if entries}
    if not missing:
        return "params.yaml holds this pair already."
    lines = yaml.safe_dump(missing, sort_keys=False, default_flow_style=None, width=110)
    return f"To keep the pair, merge these lines into the sections of params.yaml:\n\n{lines}"


def _missing_entries(section: str, entries: dict | list, present: dict | list) -> dict | list:
    """The entries that `present` lacks or has otherwise; a dataset there keeps its own limit and path."""
    if isinstance(entries, list):
        return [entry for entry in entries if entry not in present]
    return {
        name: entry
        for name, entry in entries.items()
        if name not in present or (section != "datasets" and (present[name] or {}) != entry)
    }
