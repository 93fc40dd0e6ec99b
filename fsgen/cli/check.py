"""`fsgen check`: validate params.yaml and estimate its cost."""

from pathlib import Path
from typing import Annotated

import typer

from fsgen.cli.app import app
from fsgen.config.load import load_settings
from fsgen.config.schema import Settings
from fsgen.errors import lookup_or_suggest


@app.command()
def check(
    params: Annotated[
        Path | None, typer.Argument(help="A params file that is a plan: its tokenizers are not opened.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="Estimate hours on h100, a100, or here, measured.")] = None,
):
    """Validate params.yaml as a whole, and say what it will cost; opens tokenizers, no weights.

    Example: `fsgen check profiles/qwen15.yaml --on h100`
    """
    from fsgen.cli import cost_estimates

    loaded, machine = load_settings(params or "params.yaml"), _machine(on) if on else None
    if params is None:
        _check_tokenizers(loaded)
    counts = ", ".join(
        f"{len(getattr(loaded, kind))} {kind}" for kind in ("datasets", "models", "pairs", "policies")
    )
    print(f"{params or 'params.yaml'} holds: {counts}.")
    print("\n".join(cost_estimates.report_lines(loaded, machine)))


def _machine(name: str):
    """The machine of that name; `here` is this one, measured."""
    from fsgen.cli import cost_estimates

    if name != "here":
        return lookup_or_suggest(cost_estimates.MACHINES, name, "the machines (and 'here')")
    from fsgen.cli import step_times  # torch

    return step_times.measure_machine()


def _check_tokenizers(loaded: Settings) -> None:
    """Complaint where a pair cannot be fused, as far as its models have been trained."""
    from fsgen.models import (
        checkpoints,
        tokenization,  # transformers takes seconds, and few commands need it
    )

    trained = {name for name, model in loaded.models.items() if checkpoints.is_available(model)}
    for pair, entry in loaded.pairs.items():
        if trained.issuperset(entry.members().values()):
            tokenization.check_tokenizers(loaded, pair)
