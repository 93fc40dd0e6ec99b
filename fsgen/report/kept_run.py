"""What a folder under results/ holds: params, metrics, environment, times and notes of a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from fsgen.config.parsing import read_yaml
from fsgen.tables import files

NOTES = "notes.md"


class KeptRun(NamedTuple):
    """A kept run, as its files hold it."""

    params: dict
    datasets: dict[str, dict]
    """Dataset to its metrics."""
    comparisons: dict
    uncertainty: dict
    scaling: dict
    environment: dict
    stages: list[dict]
    notes: str

    def pairs(self) -> Iterator[tuple[str, str, dict]]:
        """Dataset, pair, and the pair's metrics there."""
        for dataset, content in self.datasets.items():
            for pair, entry in content["pairs"].items():
                yield dataset, pair, entry

    def budgets(self) -> list[str]:
        """Budgets in percent that policies name, rising."""
        routed = [str(policy) for policy in self.params["policies"] if "+" in str(policy)]
        return sorted({policy.partition("@")[2] for policy in routed} - {""}, key=float)


def read_kept_run(folder: Path) -> KeptRun:
    """The run that is kept in a folder; raises UserError where metrics are missing."""
    params = read_yaml(folder / "params.yaml")
    notes = folder / NOTES
    return KeptRun(
        params=params,
        datasets={name: _read_metrics(folder, name) for name in params["datasets"]},
        comparisons=_read_metrics(folder, "comparisons"),
        uncertainty=_read_metrics(folder, "uncertainty"),
        scaling=_read_metrics(folder, "scaling"),
        environment=files.read_metrics(folder / "environment.json"),
        stages=pl.read_csv(folder / "stages.csv").to_dicts(),
        notes=notes.read_text().strip() if notes.is_file() else "",
    )


def _read_metrics(folder: Path, name: str) -> dict:
    return files.read_metrics(folder / "metrics" / f"{name}.json")
