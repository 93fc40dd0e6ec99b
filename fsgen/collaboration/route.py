"""Routers on the dumps: fitted and calibrated on calibration prompts, simulated on test prompts.

Shape legend: N positions of one text table.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.collaboration import fusion, learned_routers, router_input, routers
from fsgen.collaboration.learned_routers import FittedRouter, TrainingSet
from fsgen.config.policies import LEARNED_ROUTERS, Policy
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.tables import files, parquet, paths
from fsgen.tables.parquet import KEY

ROUTED = parquet.schema(
    [
        ("policy", pa.string(), "policy that is simulated"),
        ("prompt_id", pa.string(), "test prompt"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place in the default speaker's own text, from 0"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("called", pa.bool_(), "whether the router calls the large model here"),
        ("mismatch", pa.bool_(), "whether the fused token differs from the default one"),
        ("certificate", pa.string(), "whether the mismatch is proven: exact or uncertain"),
        ("on_text", pa.bool_(), "whether the policy provably still writes this text; else an estimate"),
    ]
)  # fmt: skip


SCORES = parquet.schema(
    [
        ("method", pa.string(), "method, a key of params.yaml"),
        ("writer", pa.string(), "role of the model that wrote the text: large, or the default speaker"),
        ("prompt_id", pa.string(), "test prompt"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("mismatch", pa.bool_(), "whether the method's fused token differs from the default one"),
        ("max_probability", pa.float32(), "top probability of the default speaker"),
        ("margin", pa.float32(), "its top probability less its second"),
        ("entropy", pa.float32(), "its entropy, nats"),
        ("logistic", pa.float32(), "P(mismatch) by the logistic router; null where no policy uses it"),
        ("svm", pa.float32(), "P(mismatch) by the support vector machine; null where no policy uses it"),
    ]
)  # fmt: skip


def route_pair(settings: Settings, pair: str) -> None:
    """Fit and calibrate the pair's routers, and simulate its policies on the default speaker's own text.

    Writes data/routes/<pair>/: thresholds.json, learned/<dataset>.json (routers as numbers), and for each
    shard of the dumps <dataset>/routed-<shard>.parquet (decisions) and scores-<shard>.parquet. Fitting and
    calibration see calibration prompts only, the tables hold test prompts only.
    """
    out, policies = paths.routes(pair), settings.policies_of(pair)
    policies = [policy for policy in policies if policy.draft is None]
    thresholds, lessons = {}, []
    with files.atomic_folder(out) as folder:
        (folder / "learned").mkdir()
        for dataset in settings.datasets:
            known = _Texts.open(settings, pair, dataset, "calibration")
            fits = known.learn(settings, policies)
            thresholds[dataset] = {
                p.name: known.calibrate(settings, p, fits) for p in policies if p.budget is not None
            }
            weights = {name: fitted.weights for name, fitted in fits.items()}
            gates = {
                p: routers.calibrated_router(settings, p, thresholds[dataset], weights) for p in policies
            }
            _route_shards(settings, pair, dataset, gates, weights, folder / dataset)
            (folder / "learned" / f"{dataset}.json").write_text(_told(fits))
            _warn_of_guessers(f"{pair} on {dataset}", fits)
            lessons += [f"{name} on {f.tokens} tokens of {f.prompts} prompts" for name, f in fits.items()]
        (folder / "thresholds.json").write_text(json.dumps(thresholds, indent=2, sort_keys=True) + "\n")
    fitted = f"; fitted {', '.join(lessons)}" if lessons else ""
    console.done(
        f"{out}: {len(policies)} policies calibrated and simulated on {', '.join(settings.datasets)}{fitted}"
    )


def _route_shards(
    settings: Settings,
    pair: str,
    dataset: str,
    gates: Mapping[Policy, routers.CalibratedRouter],
    weights: Mapping[str, dict],
    folder: Path,
) -> None:
    """A shard at a time, so that memory does not grow with the test prompts."""
    for shard in parquet.shards(paths.fused(pair, dataset), "fused"):
        texts = _Texts.open(settings, pair, dataset, "test", shard)
        parquet.write(folder / f"routed-{shard}.parquet", texts.simulate(settings, gates), ROUTED)
        scores = texts.score(settings, pair, weights)
        parquet.write(folder / f"scores-{shard}.parquet", scores, SCORES)


def _warn_of_guessers(where: str, fits: Mapping[str, FittedRouter]) -> None:
    """Say where Platt's sigmoid falls: its router ranks prompts that it had not seen upside down."""
    for name, fitted in fits.items():
        if fitted.weights.get("slope", 1.0) <= 0:
            console.warn(
                f"{where}: {name} learnt nothing from {fitted.mismatches} mismatches of {fitted.prompts} "
                "calibration prompts that held for prompts it had not seen; raise 'limit' or 'calibration'"
            )


def open_calibrated_router(
    settings: Settings, pair: str, dataset: str, policy: Policy
) -> routers.CalibratedRouter:
    """The gate of any policy of the pair, in params.yaml or not, calibrated as `route_pair` does it."""
    rule = settings.routers[policy.router].rule
    if policy.budget is None and rule not in LEARNED_ROUTERS:
        return routers.calibrated_router(settings, policy, {}, {})
    known = _Texts.open(settings, pair, dataset, "calibration")
    fits = known.learn(settings, [policy])
    cuts = {policy.name: known.calibrate(settings, policy, fits)} if policy.budget is not None else {}
    return routers.calibrated_router(
        settings, policy, cuts, {name: fitted.weights for name, fitted in fits.items()}
    )


def _told(fits: Mapping[str, FittedRouter]) -> str:
    """Learned routers as JSON: what each saw, and its weights."""
    told = {
        name: {
            "prompts": fitted.prompts,
            "tokens": fitted.tokens,
            "mismatches": fitted.mismatches,
            "weights": {key: array.tolist() for key, array in fitted.weights.items()},
        }
        for name, fitted in fits.items()
    }
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


class _Texts(NamedTuple):
    """The default speakers' records on their own and on the large model's texts, and what is fused there."""

    records: dict[tuple[str, str], pl.DataFrame]
    """By speaker and writer: KEY and what routers see."""
    fused: pl.DataFrame
    width: int
    """Tokens that routers see of a list."""

    @classmethod
    def open(cls, settings: Settings, pair: str, dataset: str, split: str, shard: str = "*") -> "_Texts":
        """Those of one split's prompts, in one shard of the dumps or in all."""
        prompts = parquet.read(paths.prompts(dataset), ["prompt_id", "split"]).filter(split=split)
        wanted = pl.col("prompt_id").is_in(prompts["prompt_id"].implode())
        asked, records = [*KEY, *router_input.router_input_columns(settings.dump.k_min)], {}
        reads = parquet.scan(paths.read_by_small(pair, dataset) / f"reads-{shard}.parquet").filter(
            wanted, writer="large"
        )
        for role, model in settings.pairs[pair].members().items():
            if role == "large":
                continue  # it never speaks by default
            own = parquet.scan(paths.dumps(model, dataset) / f"tokens-{shard}.parquet").filter(wanted)
            records[role, role] = own.select(asked).collect()
            records[role, "large"] = reads.filter(reader=role).select(asked).collect()
        fused = parquet.scan(paths.fused(pair, dataset) / f"fused-{shard}.parquet").filter(wanted).collect()
        return cls(records, fused, settings.dump.k_min)

    def rows_of(self, settings: Settings, name: str, writer: str | None = None) -> pl.DataFrame:
        """Records and fused tokens where the method's speaker chose, sorted.

        On its own text, unless another writer is named.
        """
        role = fusion.default_role(settings.methods[name])
        writer = writer or role
        fused = self.fused.filter(~pl.col("forced"), method=name, writer=writer)
        return fused.join(self.records[role, writer], on=KEY, validate="1:1").sort(KEY)

    def learn(self, settings: Settings, policies: list[Policy]) -> dict[str, FittedRouter]:
        """`<method>+<rule>` to the fitted router, for those that some policy uses."""
        wanted = {
            (p.method, settings.routers[p.router].rule) for p in policies if p.router in settings.routers
        }
        fits = {}
        for method, rule in sorted(wanted):
            if rule in LEARNED_ROUTERS:
                rows = self.rows_of(settings, method).filter("in_answer")
                features_NF = learned_routers.features(router_input.router_input(rows, self.width))
                lesson = TrainingSet(features_NF, rows["mismatch"].to_numpy(), rows["prompt_id"].to_numpy())
                fits[f"{method}+{rule}"] = learned_routers.FITTERS[rule](lesson, settings.seed)
        return fits

    def calibrate(self, settings: Settings, policy: Policy, fits: Mapping[str, FittedRouter]) -> float:
        """The number that makes the policy's router spend its budget on calibration prompts."""
        rule = settings.routers[policy.router].rule
        if rule == "random":
            return policy.budget
        if rule == "perfect":
            on_large = self.fused.filter("in_answer", method=policy.method, writer="large")
            return min(1.0, policy.budget / max(on_large["mismatch"].mean(), 1e-9))
        # of a learned router too those that the loop will see: a quantile needs scores, not honest chances,
        # and fits on parts of the prompts score too unlike this one for their quantile to be its own
        weights = fits[f"{policy.method}+{rule}"].weights if rule in LEARNED_ROUTERS else {}
        rows = self.rows_of(settings, policy.method).filter("in_answer")
        score_N = routers.CalibratedRouter(rule, None, weights).score(
            router_input.router_input(rows, self.width)
        )
        return routers.calibrate(rule, score_N, policy.budget)

    def simulate(self, settings: Settings, gates: Mapping[Policy, routers.CalibratedRouter]) -> pl.DataFrame:
        """The policies' decisions along text that they may already have left."""
        frames = []
        for method in dict.fromkeys(policy.method for policy in gates):
            rows = self.rows_of(settings, method)
            seen = router_input.router_input(rows, self.width)
            chance_N = routers.position_uniforms(
                settings.seed, rows["prompt_id"].to_numpy(), rows["pos"].to_numpy()
            )
            own = {policy: gate for policy, gate in gates.items() if policy.method == method}
            frames += [_simulated(policy.name, gate, rows, seen, chance_N) for policy, gate in own.items()]
        return pl.concat(frames).sort("policy", *KEY)

    def score(self, settings: Settings, pair: str, weights: Mapping[str, dict]) -> pl.DataFrame:
        """Every router's score at every test position of both texts, for each method but drafting.

        Drafting would repeat the oracle's.
        """
        methods = {n: m for n, m in settings.methods_of(pair).items() if m.rule != "speculative"}
        frames = [
            _scored(self.rows_of(settings, name, writer), self.width, name, weights)
            for name, method in methods.items()
            for writer in (fusion.default_role(method), "large")
        ]
        return pl.concat(frames).sort("method", "writer", *KEY)


def _simulated(
    name: str,
    gate: routers.CalibratedRouter,
    rows: pl.DataFrame,
    seen: router_input.RouterInput,
    chance_N: np.ndarray,
) -> pl.DataFrame:
    """One policy's decisions at rows of its method, and how long its own text is still this one."""
    called_N = routers.decide(gate, seen, chance_N, rows["mismatch"].to_numpy())
    rows = rows.with_columns(policy=pl.lit(name), called=pl.Series(called_N))
    unproven = pl.col("certificate") == "uncertain"
    asked = pl.col("called") | (unproven if gate.rule == "perfect" else False)
    left = (asked & (pl.col("mismatch") | unproven)).cast(pl.Int32)
    # the row at which the policy leaves the text is still one that it sees
    return rows.with_columns(on_text=(left.cum_sum() - left).over("prompt_id") == 0).select(ROUTED.names)


def _scored(rows: pl.DataFrame, width: int, method: str, weights: Mapping[str, dict]) -> pl.DataFrame:
    """The rows with every score; null where the method has no such learned router."""
    seen = router_input.router_input(rows, width)
    found = {"max_probability": routers.max_probability(seen), "margin": routers.margin(seen)}
    for rule in LEARNED_ROUTERS:
        own = weights.get(f"{method}+{rule}")
        found[rule] = (
            routers.CalibratedRouter(rule, None, own).score(seen) if own else np.full(len(rows), np.nan)
        )
    columns = [pl.Series(name, score_N, pl.Float64).fill_nan(None) for name, score_N in found.items()]
    return rows.with_columns(columns).select(SCORES.names).cast(dict.fromkeys(found, pl.Float32))
