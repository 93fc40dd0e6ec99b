"""Arithmetic on the dumps: every method's token at every position of every dumped text, with certificates.

Shape legend: N positions of one text table, K ids of a padded list.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.collaboration import fusion
from fsgen.config.policies import Method
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.tables import files, parquet, paths
from fsgen.tables.parquet import KEY
from fsgen.tables.schemas.collaboration import FUSED



class FusionInput(NamedTuple):
    """A text table seen by all: aligned rows of the writer and its readers."""

    writer: str
    rows: pl.DataFrame
    lists: fusion.TopLists
    tops: dict[str, np.ndarray]
    """Role to the token that it says at each row; the writer's is the one written."""


def fuse_pair(settings: Settings, pair: str) -> None:
    """Write data/fused/<pair>/<dataset>/fused-<shard>.parquet: c, d, mismatch, certificate of every method.

    A shard of the dumps at a time, so that memory does not grow with the prompts.
    """
    methods, out = settings.methods_of(pair), paths.fused(pair)
    members, said = settings.named("pairs", pair).members(), []
    with files.atomic_folder(out) as folder:
        for dataset in settings.datasets:
            proven = rows = 0
            for shard in parquet.shards(paths.dumps(members["large"], dataset), "tokens"):
                sides = (open_fusion_input(settings, pair, dataset, writer, shard) for writer in members)
                table = _fuse_inputs(methods, sides)
                proven += (table["certificate"] == "exact").sum()
                rows += len(table)
                parquet.write(folder / dataset / f"fused-{shard}.parquet", table, FUSED)
            said.append(f"{proven / rows:.2%} of {dataset}")
    console.done(
        f"{out}: {len(methods)} methods on the texts of {', '.join(members)}; certified {', '.join(said)}"
    )


def _fuse_inputs(methods: Mapping[str, Method], sides: Iterable[FusionInput]) -> pl.DataFrame:
    """Rows of FUSED for every method on the texts that it concerns."""
    frames = [
        _fuse_input(name, method, side)
        for side in sides
        for name, method in methods.items()
        if _concerns(method, side.writer)
    ]
    return pl.concat(frames).sort("method", "writer", *KEY)


def _concerns(method: Method, writer: str) -> bool:
    """A method is fused on the large model's text and on its own speaker's."""
    own = writer == method.definition.default_role and not method.definition.drafts
    return writer == "large" or own


def open_fusion_input(settings: Settings, pair: str, dataset: str, writer: str, shard: str) -> FusionInput:
    """A shard's texts of `writer`, the large model's lists there and the partners' logits at their ids."""
    members = settings.pairs[pair].members()
    own_text = parquet.read(
        paths.dumps(members[writer], dataset) / f"tokens-{shard}.parquet",
        [*KEY, "token_id", "in_answer", "forced", "top_ids", "top_logits", "logsumexp", "outside_logit"],
    ).sort(KEY)
    reads = parquet.read(paths.read_by_small(pair, dataset) / f"reads-{shard}.parquet").filter(writer=writer)
    small, tuned = (_aligned(own_text, reads.filter(pl.col("reader") == r)) for r in ("small", "tuned"))
    large = own_text
    if writer != "large":
        large = parquet.read(paths.read_by_large(pair, dataset) / f"reads-{shard}.parquet")
        large = _aligned(own_text, large.filter(writer=writer))
    readers = {"large": large, "small": small} | ({"tuned": tuned} if len(tuned) else {})
    tops = {role: frame["top_ids"].list.first().to_numpy() for role, frame in readers.items()}
    tops[writer] = own_text["token_id"].to_numpy()
    lists = fusion.TopLists(
        ids_NK=parquet.pad_lists(large["top_ids"], -1),
        large_NK=parquet.pad_lists(large["top_logits"], -np.inf),
        small_NK=parquet.pad_lists(small["at_logits"], -np.inf),
        tuned_NK=parquet.pad_lists(tuned["at_logits"], -np.inf) if len(tuned) else None,
        max_tuned_gain_N=tuned["max_tuned_gain"].to_numpy() if len(tuned) else None,
        outside_N=large["outside_logit"].to_numpy(),
    )
    rows = own_text.select(*KEY, "in_answer", "forced").with_columns(
        large_logsumexp=large["logsumexp"], small_logsumexp=small["logsumexp"]
    )
    return FusionInput(writer, rows, lists, tops)


def _aligned(text: pl.DataFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """A reader's rows in the text's order; none where it did not read this text."""
    frame = frame.sort(KEY)
    if len(frame) and not frame.select(KEY).equals(text.select(KEY)):
        raise AssertionError("a reader's rows are not those of the text")
    return frame


def _fuse_input(name: str, method: Method, side: FusionInput) -> pl.DataFrame:
    fused_N, proven_N = fusion.fuse(method, side.lists)
    default_N = side.tops[method.definition.default_role]
    bounds_N2 = np.full((len(fused_N), 2), np.nan, dtype=np.float32)
    if method.definition.drafts:
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
