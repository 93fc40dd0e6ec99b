"""Arithmetic on the dumps: every method's tokens on every text, routers calibrated and simulated.

Shape legend: N positions of one text table, K ids of a padded list.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen import console, fusion, routers, store
from fsgen.policies import Method, Policy
from fsgen.settings import Settings

KEY = ["prompt_id", "turn", "pos"]
FUSED = store.schema(
    [
        ("method", pa.string(), "method, a key of params.yaml"),
        ("writer", pa.string(), "role of the model that wrote the text: large, small or tuned"),
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("forced", pa.bool_(), "whether the token was given, not chosen"),
        ("default_id", pa.int32(), "what the method emits here without the large model"),
        ("small_id", pa.int32(), "what the small model says here"),
        ("fused_id", pa.int32(), "the method's collaborative token"),
        ("mismatch", pa.bool_(), "whether fused_id differs from default_id"),
        ("certificate", pa.string(), "exact (fused_id is proven over the full vocabulary) or uncertain"),
        ("accept_low", pa.float32(), "lower bound of the sampled acceptance rate; speculative rows only"),
        ("accept_high", pa.float32(), "its upper bound"),
    ]
)  # fmt: skip
ROUTED = store.schema(
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


class Side(NamedTuple):
    """A text table seen by all: aligned rows of the writer and its readers."""

    writer: str
    rows: pl.DataFrame
    lists: fusion.Lists
    tops: dict[str, np.ndarray]
    """Role to the token that it says at each row; the writer's is the one written."""


def fuse_pair(settings: Settings, pair: str) -> None:
    """Write data/fused/<pair>/<dataset>.parquet: c, d, mismatch and certificate of every method."""
    methods, out = settings.methods_of(pair), Path("data/fused") / pair
    members = settings.named("pairs", pair).members()
    shares = []
    with store.appear(out) as folder:
        for dataset in settings.datasets:
            frames = []
            for writer in members:
                side = open_side(settings, pair, dataset, writer)
                frames += [_fuse_side(n, m, side) for n, m in methods.items() if _concerns(m, writer)]
            table = pl.concat(frames).sort("method", "writer", *KEY)
            shares.append(f"{(table['certificate'] == 'exact').mean():.2%} of {dataset}")
            store.write(folder / f"{dataset}.parquet", table, FUSED)
    console.wrote(
        f"{out}: {len(methods)} methods on the texts of {', '.join(members)}; certified {', '.join(shares)}"
    )


def _concerns(method: Method, writer: str) -> bool:
    """A method is fused on the large model's text and on its own speaker's."""
    own = writer == fusion.speaker(method) and method.rule != "speculative"
    return writer == "large" or own


def open_side(settings: Settings, pair: str, dataset: str, writer: str) -> Side:
    """The text of `writer` with the large model's lists and the partners' logits at their ids."""
    members = settings.pairs[pair].members()
    own_text = store.read(
        f"data/dumps/{members[writer]}/{dataset}/tokens-*.parquet",
        [*KEY, "token_id", "in_answer", "forced", "top_ids", "top_logits", "logsumexp", "outside_logit"],
    ).sort(KEY)
    reads = store.read(f"data/small/{pair}/{dataset}/reads-*.parquet").filter(pl.col("writer") == writer)
    small, tuned = (_aligned(own_text, reads.filter(pl.col("reader") == r)) for r in ("small", "tuned"))
    large = own_text
    if writer != "large":
        large = store.read(f"data/large/{pair}/{dataset}/reads-*.parquet")
        large = _aligned(own_text, large.filter(pl.col("writer") == writer))
    readers = {"large": large, "small": small} | ({"tuned": tuned} if len(tuned) else {})
    tops = {role: frame["top_ids"].list.first().to_numpy() for role, frame in readers.items()}
    tops[writer] = own_text["token_id"].to_numpy()
    lists = fusion.Lists(
        ids_NK=store.padded(large["top_ids"], -1),
        large_NK=store.padded(large["top_logits"], -np.inf),
        small_NK=store.padded(small["at_logits"], -np.inf),
        tuned_NK=store.padded(tuned["at_logits"], -np.inf) if len(tuned) else None,
        max_tuned_gain_N=tuned["max_tuned_gain"].to_numpy() if len(tuned) else None,
        outside_N=large["outside_logit"].to_numpy(),
    )
    rows = own_text.select(*KEY, "in_answer", "forced").with_columns(
        large_logsumexp=large["logsumexp"], small_logsumexp=small["logsumexp"]
    )
    return Side(writer, rows, lists, tops)


def _aligned(text: pl.DataFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """A reader's rows in the text's order; none where it did not read this text."""
    frame = frame.sort(KEY)
    if len(frame) and not frame.select(KEY).equals(text.select(KEY)):
        raise AssertionError("a reader's rows are not those of the text")
    return frame


def _fuse_side(name: str, method: Method, side: Side) -> pl.DataFrame:
    fused_N, proven_N = fusion.fuse(method, side.lists)
    default_N = side.tops[fusion.speaker(method)]
    bounds_N2 = np.full((len(fused_N), 2), np.nan, dtype=np.float32)
    if method.rule == "speculative":
        sums = (side.rows[f"{role}_logsumexp"].to_numpy() for role in ("large", "small"))
        bounds_N2 = fusion.acceptance_bounds(side.lists, *sums)
    return side.rows.select(*KEY, "in_answer", "forced").with_columns(
        method=pl.lit(name),
        writer=pl.lit(side.writer),
        default_id=default_N,
        small_id=side.tops["small"],
        fused_id=fused_N,
        mismatch=fused_N != default_N,
        certificate=pl.when(pl.Series(proven_N)).then(pl.lit("exact")).otherwise(pl.lit("uncertain")),
        accept_low=pl.Series(bounds_N2[:, 0]).fill_nan(None),
        accept_high=pl.Series(bounds_N2[:, 1]).fill_nan(None),
    )


def route_pair(settings: Settings, pair: str) -> None:
    """Calibrate the pair's policies and simulate them on the default speaker's own text.

    Writes data/routes/<pair>/thresholds.json and <dataset>.parquet. Calibration sees calibration
    prompts only, simulation test prompts only.
    """
    out, policies = Path("data/routes") / pair, settings.policies_of(pair)
    policies = [policy for policy in policies if policy.draft is None]
    thresholds = {}
    with store.appear(out) as folder:
        for dataset in settings.datasets:
            texts = _OwnTexts.open(settings, pair, dataset)
            thresholds[dataset] = {
                p.name: texts.calibrate(settings, p) for p in policies if p.budget is not None
            }
            frames = [texts.simulate(settings, p, thresholds[dataset]) for p in policies]
            store.write(folder / f"{dataset}.parquet", pl.concat(frames).sort("policy", *KEY), ROUTED)
        (folder / "thresholds.json").write_text(json.dumps(thresholds, indent=2, sort_keys=True) + "\n")
    console.wrote(
        f"{out}: {len(policies)} policies calibrated and simulated on {', '.join(settings.datasets)}"
    )


class _OwnTexts(NamedTuple):
    """The default speakers' own texts with their records, and what every method would say there."""

    records: dict[str, pl.DataFrame]
    fused: pl.DataFrame

    @classmethod
    def open(cls, settings: Settings, pair: str, dataset: str) -> "_OwnTexts":
        split = store.read(f"data/prompts/{dataset}.parquet", ["prompt_id", "split"])
        fused = store.read(f"data/fused/{pair}/{dataset}.parquet")
        records = {}
        for role, model in settings.pairs[pair].members().items():
            if role == "large":
                continue  # it never speaks by default
            rows = store.read(f"data/dumps/{model}/{dataset}/tokens-*.parquet")
            second = rows.select(
                *KEY, "max_logit", "logsumexp", "entropy", second=pl.col("top_logits").list.get(1)
            )
            records[role] = second.join(split, on="prompt_id").sort(KEY)
        return cls(records, fused.join(split, on="prompt_id"))

    def rows_of(self, method_name: str, method: Method, split: str) -> pl.DataFrame:
        """Records and fused tokens where the method's own speaker chose, one split, sorted."""
        role = fusion.speaker(method)
        fused = self.fused.filter(
            pl.col("method") == method_name, ~pl.col("forced"), writer=role, split=split
        )
        return fused.join(self.records[role].drop("split"), on=KEY, validate="1:1").sort(KEY)

    def calibrate(self, settings: Settings, policy: Policy) -> float:
        """The number that makes the policy's router spend its budget on calibration prompts."""
        method, rule = settings.methods[policy.method], settings.routers[policy.router].rule
        if rule == "random":
            return policy.budget
        if rule == "perfect":
            on_large = self.fused.filter(
                (pl.col("method") == policy.method) & (pl.col("writer") == "large")
                & (pl.col("split") == "calibration") & pl.col("in_answer")
            )  # fmt: skip
            return min(1.0, policy.budget / max(on_large["mismatch"].mean(), 1e-9))
        rows = self.rows_of(policy.method, method, "calibration").filter("in_answer")
        return routers.calibrate(rule, _seen(rows), policy.budget)

    def simulate(self, settings: Settings, policy: Policy, thresholds: dict[str, float]) -> pl.DataFrame:
        """The policy's decisions along text that it may already have left."""
        rows = self.rows_of(policy.method, settings.methods[policy.method], "test")
        chance_N = routers.chance(settings.seed, rows["prompt_id"].to_numpy(), rows["pos"].to_numpy())
        gate = routers.ready(settings, policy, thresholds)
        called_N = routers.calls(gate, _seen(rows), chance_N, rows["mismatch"].to_numpy())
        rows = rows.with_columns(policy=pl.lit(policy.name), called=pl.Series(called_N))
        unproven = pl.col("certificate") == "uncertain"
        asked = pl.col("called") | (unproven if gate.rule == "perfect" else False)
        left = (asked & (pl.col("mismatch") | unproven)).cast(pl.Int32)
        # the row at which the policy leaves the text is still one that it sees
        return rows.with_columns(on_text=(left.cum_sum() - left).over("prompt_id") == 0).select(ROUTED.names)


def _seen(rows: pl.DataFrame) -> routers.Speaker:
    return routers.Speaker(*(rows[c].to_numpy() for c in ("max_logit", "second", "logsumexp", "entropy")))
