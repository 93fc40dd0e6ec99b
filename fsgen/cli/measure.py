"""`fsgen speedup` and `fsgen batch-invariance`: measurements on this machine."""

from typing import Annotated

import typer

from fsgen.cli.app import Dataset, Pair, name_or_first
from fsgen.config.load import load_settings


def speedup(
    pair: Pair, dataset: Dataset = None, prompts: Annotated[int, typer.Option(min=1, help="To time on.")] = 4
):
    """Time both models of a pair on this machine, and say what drafting would gain.

    Example: `fsgen speedup arith-23k-451k`
    """
    from fsgen.cli import step_times  # torch

    settings = load_settings()
    dataset = name_or_first(dataset, settings, "datasets")
    print("\n".join(step_times.report_lines(settings, pair, dataset, prompts)))


def batch_invariance(
    model: Annotated[str, typer.Argument(help="A key of models in params.yaml.")],
    dataset: Dataset = None,
    prompts: Annotated[int, typer.Option(min=1, help="To write on.")] = 8,
):
    """Generate prompts one at a time and in one batch, and report where a model's texts differ first.

    Example: `fsgen batch-invariance arith-87k --prompts 4`
    """
    from fsgen.decoding.batch_invariance import report_lines  # torch

    settings = load_settings()
    dataset = name_or_first(dataset, settings, "datasets")
    print("\n".join(report_lines(settings, model, dataset, prompts)))
