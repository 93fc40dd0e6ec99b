"""`fsgen run`: run one combination without editing params.yaml."""

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from fsgen.cli.app import app
from fsgen.config.parsing import read_yaml
from fsgen.execution import console


@app.command()
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
    prompt: Annotated[str, typer.Option(help="How models are asked: plain or chat.")] = "plain",
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution", help="For mbpp.")] = False,
):
    """Run one combination without editing params.yaml, in runs/.

    Example: `fsgen run --large data/family/base-451k --small data/family/base-23k --dataset arith --limit 32`
    """
    from fsgen.cli import cost_estimates, single_run
    from fsgen.report import headline

    wish = single_run.RunRequest(
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
    home = single_run.run(wish)
    content = json.loads((home / "metrics" / f"{dataset}.json").read_text())
    print(f"{headline.markdown(dataset, content)}\n\n{headline.policies(content)}\n")
    sizes = {name: told["total_parameters"] for name, told in content["models"].items()}
    for sentence in cost_estimates.doubt_sizes(content["pairs"], sizes):
        console.warn(sentence)
    print(_tell_merging(single_run.params_to_merge(read_yaml(home / "params.yaml"))))


def _tell_merging(wanted: dict) -> str:
    """How to keep the pair: the lines of these sections that the params.yaml here lacks."""
    here = read_yaml(Path("params.yaml")) if Path("params.yaml").is_file() else {}
    lacking = {section: _lacking(section, own, here.get(section) or {}) for section, own in wanted.items()}
    lacking = {section: own for section, own in lacking.items() if own}
    if not lacking:
        return "params.yaml holds this pair already."
    lines = yaml.safe_dump(lacking, sort_keys=False, default_flow_style=None, width=110)
    return f"To keep the pair, merge these lines into the sections of params.yaml:\n\n{lines}"


def _lacking(section: str, wanted: dict | list, known: dict | list) -> dict | list:
    """What is wanted of a section and not known; a known dataset keeps its own limit and path."""
    if isinstance(wanted, list):
        return [entry for entry in wanted if entry not in known]
    return {
        name: entry
        for name, entry in wanted.items()
        if name not in known or (section != "datasets" and (known[name] or {}) != entry)
    }
