"""Fuse the dumps: every method's token at every position of every dumped text, and whether it is certified.

Shape legend: N positions of one text table, K ids of a padded list.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.collaboration import fusion
from fsgen.collaboration.read_plan import read_plan
from fsgen.config.policies import Method
from fsgen.config.roles import LARGE
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.tables import files, parquet, paths
from fsgen.tables.parquet import KEY
from fsgen.tables.schemas.collaboration import FUSED

TEXT_COLUMNS = [
    "token_id",
    "in_answer",
    "from_template",
    "top_ids",
    "top_logits",
    "logsumexp",
    "max_outside_logit",
]


class FusionInput(NamedTuple):
    """A shard's texts of one writer, with aligned records of all models that read them."""

    writer: str
    """Role of the model that wrote the texts."""
    rows: pl.DataFrame
    """KEY, in_answer, from_template, and both models' logsumexp."""
    lists: fusion.TopLists
    choices: dict[str, np.ndarray]
    """Role to its own token at each row; the writer's is the one it wrote."""


def fuse_pair(settings: Settings, pair: str) -> None:
    """Write data/fused/<pair>/<dataset>/fused-<shard>.parquet: every method's tokens.

    A shard of the dumps at a time, so that memory does not grow with the prompts.
    """
    methods, out = settings.methods_of(pair), paths.fused(pair)
    roles, writers = settings.pair(pair).roles(), list(read_plan(methods))
    shares = []
    with files.atomic_folder(out) as folder:
        for dataset in settings.datasets:
            certified = rows = 0
            for shard in parquet.shards(paths.dumps(roles["large"], dataset), "tokens"):
                inputs = (open_fusion_input(roles, pair, dataset, writer, shard) for writer in writers)
                table = _fuse_methods(methods, inputs)
                certified += table["certified"].sum()
                rows += len(table)
                parquet.write(folder / dataset / f"fused-{shard}.parquet", table, FUSED)
            shares.append(f"{certified / rows:.2%} of {dataset}")
    console.done(
        f"{out}: {len(methods)} methods on the texts of {', '.join(writers)}; certified {', '.join(shares)}"
    )


def _fuse_methods(methods: Mapping[str, Method], inputs: Iterable[FusionInput]) -> pl.DataFrame:
    """Rows of FUSED for every method on the texts on which it is fused."""
    frames = [
        _fuse(name, method, texts)
        for texts in inputs
        for name, method in methods.items()
        if texts.writer in method.definition.fused_along
    ]
    return pl.concat(frames).sort("method", "writer", *KEY)


def open_fusion_input(
    roles: Mapping[str, str], pair: str, dataset: str, writer: str, shard: str
) -> FusionInput:
    """A shard's texts of `writer`, the large model's lists there and the partners' logits at their ids.

    `roles` maps role to model name.
    """
    tokens = paths.dumps(roles[writer], dataset) / f"tokens-{shard}.parquet"
    text = parquet.read(tokens, [*KEY, *TEXT_COLUMNS]).sort(KEY)
    readers = _open_readers(text, pair, dataset, writer, shard)
    choices = {role: frame["top_ids"].list.first().to_numpy() for role, frame in readers.items()}
    choices[writer] = text["token_id"].to_numpy()
    rows = text.select(*KEY, "in_answer", "from_template").with_columns(
        large_logsumexp=readers["large"]["logsumexp"], small_logsumexp=readers["small"]["logsumexp"]
    )
    return FusionInput(writer, rows, _top_lists(readers), choices)


def _open_readers(
    text: pl.DataFrame, pair: str, dataset: str, writer: str, shard: str
) -> dict[str, pl.DataFrame]:
    """Role to its records at the rows of the text; `tuned` only where such a model read it."""
    by_small = parquet.read(paths.read_by_small(pair, dataset) / f"reads-{shard}.parquet")
    by_small = by_small.filter(writer=writer)
    readers = {"large": text}
    if writer != LARGE:
        by_large = parquet.read(paths.read_by_large(pair, dataset) / f"reads-{shard}.parquet")
        readers["large"] = _align(text, by_large.filter(writer=writer))
    readers["small"] = _align(text, by_small.filter(reader="small"))
    tuned = by_small.filter(reader="tuned")
    return readers | ({"tuned": _align(text, tuned)} if len(tuned) else {})


def _align(text: pl.DataFrame, reads: pl.DataFrame) -> pl.DataFrame:
    """A reader's rows in the order of the text's."""
    reads = reads.sort(KEY)
    if not reads.select(KEY).equals(text.select(KEY)):
        raise AssertionError("a reader's rows are not those of the text")
    return reads


def _top_lists(readers: Mapping[str, pl.DataFrame]) -> fusion.TopLists:
    """The large model's lists and the other models' logits at their ids, padded."""
    large, small, tuned = readers["large"], readers["small"], readers.get("tuned")
    return fusion.TopLists(
        ids_NK=parquet.pad_lists(large["top_ids"], -1),
        large_NK=parquet.pad_lists(large["top_logits"], -np.inf),
        small_NK=parquet.pad_lists(small["logits_at_partner_ids"], -np.inf),
        tuned_NK=None if tuned is None else parquet.pad_lists(tuned["logits_at_partner_ids"], -np.inf),
        max_tuned_minus_small_outside_N=None
        if tuned is None
        else tuned["max_tuned_minus_small_outside"].to_numpy(),
        outside_N=large["max_outside_logit"].to_numpy(),
    )


def _fuse(name: str, method: Method, texts: FusionInput) -> pl.DataFrame:
    """Rows of FUSED for one method on one writer's texts."""
    fused_N, proven_N = fusion.fuse(method, texts.lists)
    default_N = texts.choices[method.definition.default_role]
    low_N, high_N = _acceptance(method, texts)
    return texts.rows.select(*KEY, "in_answer", "from_template").with_columns(
        method=pl.lit(name),
        writer=pl.lit(texts.writer),
        default_id=default_N,
        small_id=texts.choices["small"],
        fused_id=fused_N,
        mismatch=fused_N != default_N,
        certified=pl.Series(proven_N),
        acceptance_low=pl.Series(low_N).fill_nan(None),
        acceptance_high=pl.Series(high_N).fill_nan(None),
    )


def _acceptance(method: Method, texts: FusionInput) -> np.ndarray:
    """Bounds on the sampled acceptance rate, [2, N]; NaN for a method that does not draft."""
    if not method.definition.drafts:
        return np.full((2, len(texts.rows)), np.nan, dtype=np.float32)
    sums = (texts.rows[f"{role}_logsumexp"].to_numpy() for role in ("large", "small"))
    return fusion.acceptance_bounds(texts.lists, *sums).T
