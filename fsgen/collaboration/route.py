"""Routers on the dumps: fitted and calibrated on calibration prompts, simulated on test prompts.

Shape legend: N positions of one text table.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.collaboration import learned_routers, router_input
from fsgen.collaboration.calibration import (
    CalibratedRouter,
    Calibration,
    calibrated_router,
    fit_name,
    threshold_for_budget,
    write_calibrations,
)
from fsgen.collaboration.learned_routers import FittedRouter, TrainingSet
from fsgen.collaboration.router_input import RouterInput
from fsgen.collaboration.routers import margin, max_probability, position_uniforms
from fsgen.config import registry
from fsgen.config.policies import Method, Policy, RouterConfig
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.tables import files, parquet, paths
from fsgen.tables.parquet import KEY
from fsgen.tables.schemas.collaboration import SCORES, SIMULATED

ROUTERS = {name: registry.resolve(registry.ROUTERS, name, "the routers") for name in registry.ROUTERS}
LEARNED = [name for name, router in ROUTERS.items() if router.fit]


def route_pair(settings: Settings, pair: str) -> None:
    """Fit and calibrate the pair's routers, and simulate its policies on the default model's own text.

    Writes data/routes/<pair>/: calibrated.json and, for each shard of the dumps, two tables in <dataset>/,
    simulated-<shard>.parquet (decisions) and scores-<shard>.parquet. Fitting and calibration read calibration
    prompts only, the tables hold test prompts only.
    """
    out = paths.routes(pair)
    policies = [policy for policy in settings.policies_of(pair) if policy.draft is None]
    calibrations = {}
    with files.atomic_folder(out) as folder:
        for dataset in settings.datasets:
            calibrations[dataset] = calibrate_policies(settings, pair, dataset, policies)
            _warn_of_reversed_ranking(f"{pair} on {dataset}", calibrations[dataset].fits)
            _write_shards(settings, pair, dataset, calibrations[dataset], folder / dataset)
        write_calibrations(folder, calibrations)
    fits = [fit for calibration in calibrations.values() for fit in calibration.fits.items()]
    summary = [f"{name} on {fit.tokens} tokens of {fit.prompts} prompts" for name, fit in fits]
    fitted = f"; fitted {', '.join(summary)}" if fits else ""
    console.done(
        f"{out}: {len(policies)} policies calibrated and simulated on {', '.join(settings.datasets)}{fitted}"
    )


def calibrate_policies(
    settings: Settings, pair: str, dataset: str, policies: Sequence[Policy]
) -> Calibration:
    """Fitted and calibrated routers of these policies, which need not stand in params.yaml."""
    texts = _DumpedRecords.open(settings, pair, dataset, "calibration")
    fits = _fit_routers(texts, settings.routers, policies, settings.seed)
    thresholds = {
        policy.name: _calibrate(texts, policy, settings.routers[policy.router].rule, fits)
        for policy in policies
        if policy.budget is not None
    }
    routers = {
        policy.name: calibrated_router(policy, settings.routers, thresholds, fits) for policy in policies
    }
    return Calibration(routers, fits)


def open_calibrated_router(settings: Settings, pair: str, dataset: str, policy: Policy) -> CalibratedRouter:
    """The router of any policy of the pair, in params.yaml or not, calibrated as `route_pair` does it.

    Reads dumps only where a threshold or weights are to be found on them.
    """
    if policy.budget is None and settings.routers[policy.router].definition.fit is None:
        return calibrated_router(policy, settings.routers, {}, {})
    return calibrate_policies(settings, pair, dataset, [policy]).routers[policy.name]


def _write_shards(
    settings: Settings, pair: str, dataset: str, calibration: Calibration, folder: Path
) -> None:
    """Write decisions and scores, a shard at a time, so that memory does not grow with the test prompts."""
    for shard in parquet.shards(paths.fused(pair, dataset), "fused"):
        texts = _DumpedRecords.open(settings, pair, dataset, "test", shard)
        simulated = _simulate(texts, calibration.routers, settings.seed)
        parquet.write(folder / f"simulated-{shard}.parquet", simulated, SIMULATED)
        scores = _score(texts, calibration.fits)
        parquet.write(folder / f"scores-{shard}.parquet", scores, SCORES)


def _warn_of_reversed_ranking(where: str, fits: Mapping[str, FittedRouter]) -> None:
    """Name the learned routers that do not generalise: they rank held-out calibration prompts in reverse."""
    for name, fitted in fits.items():
        if fitted.ranks_in_reverse:
            console.warn(
                f"{where}: {name} does not generalise: fitted on {fitted.mismatches} mismatches of "
                f"{fitted.prompts} calibration prompts, it ranks held-out prompts in reverse; raise 'limit' "
                "or 'calibration_share'"
            )


class _DumpedRecords(NamedTuple):
    """Records of the default models on their own and the large model's texts, and the fused tokens there."""

    records: dict[tuple[str, str], pl.DataFrame]
    """By reader and writer: KEY and what routers see."""
    fused: pl.DataFrame
    methods: Mapping[str, Method]
    """The pair's methods that take a router."""
    width: int
    """Tokens of a list that routers see."""

    @classmethod
    def open(
        cls, settings: Settings, pair: str, dataset: str, split: str, shard: str = "*"
    ) -> "_DumpedRecords":
        """Those of one split's prompts, in one shard of the dumps or in all."""
        prompts = parquet.read(paths.prompts(dataset), ["prompt_id", "split"]).filter(split=split)
        in_split = pl.col("prompt_id").is_in(prompts["prompt_id"].implode())
        columns = [*KEY, *router_input.router_input_columns(settings.dump.min_top_k)]
        methods = {n: m for n, m in settings.methods_of(pair).items() if not m.definition.drafts}
        reads = parquet.scan(paths.read_by_small(pair, dataset) / f"reads-{shard}.parquet")
        reads = reads.filter(in_split, writer="large")
        records = {}
        for role in {method.definition.default_role for method in methods.values()}:
            model = settings.pairs[pair].roles()[role]
            subset = parquet.scan(paths.dumps(model, dataset) / f"tokens-{shard}.parquet").filter(in_split)
            records[role, role] = subset.select(columns).collect()
            records[role, "large"] = reads.filter(reader=role).select(columns).collect()
        fused = parquet.scan(paths.fused(pair, dataset) / f"fused-{shard}.parquet").filter(in_split)
        return cls(records, fused.collect(), methods, settings.dump.min_top_k)

    def rows_of(self, name: str, writer: str | None = None) -> pl.DataFrame:
        """Records and fused tokens of a method where its default model chose, by KEY.

        On the default model's own text, unless another writer is named.
        """
        role = self.methods[name].definition.default_role
        writer = writer or role
        fused = self.fused.filter(~pl.col("from_template"), method=name, writer=writer)
        return fused.join(self.records[role, writer], on=KEY, validate="1:1").sort(KEY)

    def router_input(self, rows: pl.DataFrame) -> RouterInput:
        """What routers see at these rows."""
        return router_input.router_input(rows, self.width)


def _fit_routers(
    texts: _DumpedRecords, routers: Mapping[str, RouterConfig], policies: Iterable[Policy], seed: int
) -> dict[str, FittedRouter]:
    """`<method>+<rule>` to the fitted router, for each learned router that some policy uses."""
    used = {(p.method, routers[p.router]) for p in policies if p.router in routers}
    fits = {}
    for method, config in sorted(used, key=lambda pair: (pair[0], pair[1].rule)):
        if config.definition.fit is None:
            continue
        rows = texts.rows_of(method).filter("in_answer")
        features_NF = learned_routers.features(texts.router_input(rows))
        training = TrainingSet(features_NF, rows["mismatch"].to_numpy(), rows["prompt_id"].to_numpy())
        fits[fit_name(method, config.rule)] = config.definition.fit(training, seed)
    return fits


def _calibrate(texts: _DumpedRecords, policy: Policy, rule: str, fits: Mapping[str, FittedRouter]) -> float:
    """The threshold or rate with which the policy's router spends its budget on calibration prompts."""
    fitted = fits.get(fit_name(policy.method, rule))
    router = CalibratedRouter(rule, None, fitted.weights if fitted else {})
    if router.router.score is None:
        return _rate(texts, policy) if router.needs_fused_token else policy.budget
    # Of a learned router too, the scores that the loop will see: a quantile needs scores, not unbiased
    # probabilities, and fits on parts of the prompts score too differently for their quantile to hold here.
    score_N = router.score(texts.router_input(texts.rows_of(policy.method).filter("in_answer")))
    return threshold_for_budget(score_N, policy.budget, router.router.calls_below)


def _rate(texts: _DumpedRecords, policy: Policy) -> float:
    """The share of mismatches at which to call, so that calls make up the budget: min(1, budget / CoF)."""
    on_large = texts.fused.filter("in_answer", method=policy.method, writer="large")
    return min(1.0, policy.budget / max(on_large["mismatch"].mean(), 1e-9))


def _simulate(texts: _DumpedRecords, routers: Mapping[str, CalibratedRouter], seed: int) -> pl.DataFrame:
    """The policies' decisions along text that they may already have left."""
    frames = []
    for method in texts.methods:
        policies = {name: router for name, router in routers.items() if name.partition("+")[0] == method}
        if not policies:
            continue
        rows = texts.rows_of(method)
        record = texts.router_input(rows)
        uniform_N = position_uniforms(seed, rows["prompt_id"].to_numpy(), rows["pos"].to_numpy())
        frames += [
            _simulate_policy(name, router, rows, record, uniform_N) for name, router in policies.items()
        ]
    return pl.concat(frames).sort("policy", *KEY)


def _simulate_policy(
    name: str, router: CalibratedRouter, rows: pl.DataFrame, record: RouterInput, uniform_N: np.ndarray
) -> pl.DataFrame:
    """One policy's decisions at rows of its method, and how long its own text is still this one."""
    called_N = router.decide(record, uniform_N, rows["mismatch"].to_numpy())
    rows = rows.with_columns(policy=pl.lit(name), called=pl.Series(called_N))
    unproven = ~pl.col("certified")
    may_call = pl.col("called") | (unproven if router.needs_fused_token else False)
    leaves = (may_call & (pl.col("mismatch") | unproven)).cast(pl.Int32)
    # the row at which the policy leaves the text is still one that it sees
    return rows.with_columns(on_policy=(leaves.cum_sum() - leaves).over("prompt_id") == 0).select(
        SIMULATED.names
    )


def _score(texts: _DumpedRecords, fits: Mapping[str, FittedRouter]) -> pl.DataFrame:
    """Every router's score at every test position of both texts, for each method that takes a router."""
    frames = [
        _score_method(texts, name, writer, fits)
        for name, method in texts.methods.items()
        for writer in (method.definition.default_role, "large")
    ]
    return pl.concat(frames).sort("method", "writer", *KEY)


def _score_method(
    texts: _DumpedRecords, method: str, writer: str, fits: Mapping[str, FittedRouter]
) -> pl.DataFrame:
    """The rows of SCORES of one method on one text; null where the method has no such learned router."""
    rows = texts.rows_of(method, writer)
    record = texts.router_input(rows)
    scores = {"max_probability": max_probability(record), "margin": margin(record)}
    for rule in LEARNED:
        fitted = fits.get(fit_name(method, rule))
        missing_N = np.full(len(rows), np.nan)
        scores[rule] = CalibratedRouter(rule, None, fitted.weights).score(record) if fitted else missing_N
    columns = [pl.Series(name, score_N, pl.Float64).fill_nan(None) for name, score_N in scores.items()]
    return rows.with_columns(columns).select(SCORES.names).cast(dict.fromkeys(scores, pl.Float32))
