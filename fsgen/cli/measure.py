"""`fsgen speedup` and `fsgen stability`: measurements on this machine."""

from typing import Annotated

import typer

from fsgen.cli.app import Dataset, Pair, app, or_first
from fsgen.config.load import load_settings


@app.command()
def speedup(
    pair: Pair, dataset: Dataset = None, prompts: Annotated[int, typer.Option(min=1, help="To time on.")] = 4
):
    """Time both models of a pair on this machine, and say what drafting would gain.

    Example: `fsgen speedup arith-23k-451k`
    """
    from fsgen.cli import step_times

    loaded = load_settings()
    print("\n".join(step_times.report_lines(loaded, pair, or_first(dataset, loaded, "datasets"), prompts)))


@app.command()
def stability(
    model: Annotated[str, typer.Argument(help="A key of models in params.yaml.")],
    dataset: Dataset = None,
    prompts: Annotated[int, typer.Option(min=1, help="To write on.")] = 8,
):
    """Write prompts one by one and side by side, and say where a model's texts part.

    Example: `fsgen stability arith-87k --prompts 4`
    """
    from fsgen.decoding import batch_invariance

    loaded = load_settings()
    print(
        "\n".join(
            batch_invariance.report_lines(loaded, model, or_first(dataset, loaded, "datasets"), prompts)
        )
    )
