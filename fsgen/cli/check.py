"""`fsgen check`: validate params.yaml and estimate its cost."""

from pathlib import Path
from typing import Annotated

import typer

from fsgen.config.load import load_settings
from fsgen.config.schema import Settings
from fsgen.errors import lookup_or_suggest

SECTIONS = ("datasets", "models", "pairs", "policies")


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

    settings = load_settings(params or "params.yaml")
    machine = _find_machine(on) if on else None
    if params is None:
        _check_tokenizers(settings)
    counts = ", ".join(f"{len(getattr(settings, section))} {section}" for section in SECTIONS)
    print(f"{params or 'params.yaml'} holds: {counts}.")
    print("\n".join(cost_estimates.report_lines(settings, machine)))


def _find_machine(name: str):
    """The `Machine` of that name; `here` is this one, measured."""
    from fsgen.cli import cost_estimates

    if name != "here":
        return lookup_or_suggest(cost_estimates.MACHINES, name, "the machines (and 'here')")
    from fsgen.cli import step_times  # torch

    return step_times.measure_machine()


def _check_tokenizers(settings: Settings) -> None:
    """Raise UserError where a pair cannot be fused; pairs with a model that is not there yet are skipped."""
    from fsgen.models import checkpoints, tokenization  # transformers takes seconds to import

    available = {name for name, model in settings.models.items() if checkpoints.is_available(model)}
    for name, pair in settings.pairs.items():
        if available.issuperset(pair.roles().values()):
            tokenization.check_tokenizers(settings, name)
