"""Calibrated routers: a router with its threshold and its weights, ready for one policy.

Shape legend: N positions.
The `route` stage writes them to data/routes/<pair>/calibrated.json; the rollout, the report and the terminal
read them there.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fsgen.collaboration.learned_routers import FittedRouter
from fsgen.collaboration.router_input import RouterInput
from fsgen.collaboration.routers import FUSED_TOKEN, Router
from fsgen.config import registry
from fsgen.config.policies import Policy, RouterConfig
from fsgen.errors import UserError
from fsgen.execution.code import definition_digest
from fsgen.tables import paths


class CalibratedRouter(NamedTuple):
    """A router made ready for one policy."""

    rule: str
    """Its name in the registry."""
    threshold: float | None = None
    """What its score is compared with or, for a router without a score, the rate at which it calls."""
    weights: Mapping[str, np.ndarray] = {}
    """What it has learned."""

    @property
    def router(self) -> Router:
        """The router itself."""
        return registry.resolve(registry.ROUTERS, self.rule, "the routers")

    @property
    def needs_fused_token(self) -> bool:
        """Whether it can only decide once the large model has been called."""
        return FUSED_TOKEN in self.router.needs

    def score(self, record: RouterInput) -> np.ndarray | None:
        """The scores that it compares with its threshold, [N]; None for a router without a score."""
        return self.router.score(record, **self.weights) if self.router.score else None

    def decide(self, record: RouterInput, uniform_N: np.ndarray, mismatch_N: np.ndarray) -> np.ndarray:
        """Whether the large model is called, bool [N]; see `Router.decide`."""
        return self.router.decide(self.threshold, self.score(record), uniform_N, mismatch_N)

    def fingerprint(self) -> list:
        """What decides its calls, as JSON can hold it: the router's code, the threshold, the weights."""
        arrays = [self.weights[name].tobytes() for name in sorted(self.weights)]
        code = definition_digest(registry.ROUTERS, self.rule)
        return [self.rule, code, self.threshold, hashlib.sha256(b"".join(arrays)).hexdigest()]


class Calibration(NamedTuple):
    """The calibrated routers of a pair on one dataset."""

    routers: Mapping[str, CalibratedRouter]
    """By policy name."""
    fits: Mapping[str, FittedRouter]
    """Learned routers by `<method>+<rule>`; policies of several budgets share one."""

    def fit_of(self, policy: str) -> str | None:
        """The name of the fit that a policy's router uses, if it learned anything."""
        name = fit_name(policy.partition("+")[0], self.routers[policy].rule)
        return name if name in self.fits else None


def calibrated_router(
    policy: Policy,
    routers: Mapping[str, RouterConfig],
    thresholds: Mapping[str, float],
    fits: Mapping[str, FittedRouter],
) -> CalibratedRouter:
    """The router of a policy, with its threshold and weights.

    `routers` is the section of params.yaml, `thresholds` maps policy names to thresholds found on calibration
    prompts, `fits` maps `<method>+<rule>` to what that router learned there.
    """
    # every method has a +always policy, whether or not params.yaml names that router
    config = routers.get(policy.router, RouterConfig(rule=policy.router))
    name = fit_name(policy.method, config.rule)
    weights = _weights(fits, name if name in fits else None)
    if policy.budget is None:
        return CalibratedRouter(config.rule, config.threshold, weights)
    if policy.name not in thresholds:
        raise UserError(f"Policy '{policy.name}' has no calibrated threshold; rerun the stage 'route'.")
    return CalibratedRouter(config.rule, thresholds[policy.name], weights)


def fit_name(method: str, rule: str) -> str:
    """The name under which a learned router is kept: `<method>+<rule>`."""
    return f"{method}+{rule}"


def threshold_for_budget(score_N: np.ndarray, budget: float, calls_below: bool) -> float:
    """The threshold that calls the share `budget` of positions with these scores, as near as ties allow.

    It lies midway between two neighbouring scores, so no position sits on it.
    """
    ranked = np.sort(score_N)
    ranked = ranked if calls_below else ranked[::-1]
    if not len(ranked):
        raise UserError("No calibration position to set a threshold on; raise 'limit' of the dataset.")
    # positions with equal scores are called together, so the cut moves to the nearest change of score
    count = round(budget * len(ranked))
    edges = np.flatnonzero(np.diff(ranked)) + 1  # number called if the threshold is put there
    edges = np.concatenate([[0], edges, [len(ranked)]])
    count = edges[np.abs(edges - count).argmin()]
    inner, outer = _neighbours(ranked, count, calls_below)
    return float((inner + outer) / 2)


def _neighbours(ranked: np.ndarray, count: int, calls_below: bool) -> tuple[float, float]:
    """Scores on both sides of a cut after `count`; beyond the ends, a unit further out."""
    outward = 1.0 if calls_below else -1.0
    last_called = ranked[count - 1] if count else ranked[0] - 2 * outward
    first_spared = ranked[count] if count < len(ranked) else ranked[-1] + 2 * outward
    return last_called, first_spared


def write_calibrations(folder: Path, calibrations: Mapping[str, Calibration]) -> None:
    """Write calibrated.json: for each dataset, every policy's router and what the learned ones learned."""
    content = {dataset: _to_json(calibration) for dataset, calibration in calibrations.items()}
    (folder / "calibrated.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _to_json(calibration: Calibration) -> dict:
    policies = {
        name: {"rule": router.rule, "threshold": router.threshold, "fit": calibration.fit_of(name)}
        for name, router in calibration.routers.items()
    }
    return {"policies": policies, "fits": {name: fit.to_json() for name, fit in calibration.fits.items()}}


def read_calibration(pair: str, dataset: str) -> Calibration:
    """What `route` calibrated for a pair on a dataset; UserError where it has not run."""
    path = paths.routes(pair) / "calibrated.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    if dataset not in content:
        raise UserError(
            f"{path} should hold routers for '{dataset}', got none; run 'dvc repro route@{pair}'."
        )
    fits = {name: FittedRouter.from_json(entry) for name, entry in content[dataset]["fits"].items()}
    routers = {
        name: CalibratedRouter(entry["rule"], entry["threshold"], _weights(fits, entry["fit"]))
        for name, entry in content[dataset]["policies"].items()
    }
    return Calibration(routers, fits)


def _weights(fits: Mapping[str, FittedRouter], name: str | None) -> Mapping[str, np.ndarray]:
    return fits[name].weights if name else {}
