"""Dumped texts with what a method's policies would decide on them: the rows that `replay` follows.

A method has two dumped texts a prompt: the one that its default model wrote, and the large model's. The
stage `fuse` has stored the fused token at each of their positions, and whether it is certified.
"""

import hashlib
from typing import NamedTuple

import polars as pl

from fsgen.collaboration import router_input
from fsgen.config.schema import Settings
from fsgen.decoding.stored_texts import turns_of
from fsgen.decoding.texts import TokenSequence, Turn
from fsgen.tables import parquet, paths
from fsgen.tables.parquet import KEY

DIGESTED = ["prompt_id", "token_id", "default_id", "small_id", "fused_id", "certified", "from_template"]


class DumpedText(NamedTuple):
    """One dumped text among the rows of its method."""

    first_row: int
    ids: list[int]
    turns: tuple[Turn, ...]

    def up_to(self, pos: int) -> TokenSequence:
        """Its first `pos` tokens."""
        ended = tuple(turn for turn in self.turns if turn.end <= pos)
        begun = self.turns[len(ended)] if len(ended) < len(self.turns) else None
        return TokenSequence(self.ids[:pos], ended, *((begun.start, begun.written) if begun else (pos, pos)))


class DumpedTexts(NamedTuple):
    """The dumped texts of one method: its default model's (source 0) and the large model's (source 1)."""

    rows: pl.DataFrame
    """Sorted by source, prompt and position; without the tokens after a text's last stop."""
    turns: tuple[dict[str, tuple[Turn, ...]], dict[str, tuple[Turn, ...]]]
    """For each source, prompt to the turns of its text."""

    def of_prompts(self, prompt_ids: list[str]) -> "DumpedTexts":
        """Those of some prompts."""
        return self._replace(rows=self.rows.filter(pl.col("prompt_id").is_in(prompt_ids)))

    def by_prompt(self) -> dict[str, list[DumpedText]]:
        """Prompt to its texts by source."""
        rows = self.rows.with_row_index("row").group_by("prompt_id", "source", maintain_order=True)
        texts: dict[str, list[DumpedText]] = {}
        for entry in rows.agg(pl.first("row"), "token_id").iter_rows(named=True):
            prompt_id = entry["prompt_id"]
            turns = self.turns[entry["source"]][prompt_id]
            texts.setdefault(prompt_id, []).append(DumpedText(entry["row"], entry["token_id"], turns))
        return texts

    def digest(self) -> str:
        """Digest of everything that decides how policies of the method are replayed."""
        rows = self.rows.select(DIGESTED + router_input.COLUMNS)
        sha = hashlib.sha256(rows.hash_rows(seed=0).to_numpy().tobytes())
        prompt_ids = sorted(set(rows["prompt_id"]))
        sha.update(repr([[turns.get(name) for name in prompt_ids] for turns in self.turns]).encode())
        return sha.hexdigest()


def open_dumped_texts(
    settings: Settings, pair: str, dataset: str, prompt_ids: list[str]
) -> dict[str, DumpedTexts]:
    """Method to its dumped texts on these prompts, for all methods but those that draft.

    A policy that drafts writes the large model's text, so there is nothing to roll out.
    """
    is_wanted = pl.col("prompt_id").is_in(prompt_ids)
    models = settings.pairs[pair].roles()
    columns = [*KEY, "token_id", *router_input.router_input_columns(settings.dump.min_top_k)]
    fused = parquet.scan(paths.fused(pair, dataset) / "fused-*.parquet").filter(is_wanted).collect()
    texts = {
        role: parquet.scan(paths.dumps(model, dataset) / "texts-*.parquet").filter(is_wanted).collect()
        for role, model in models.items()
    }
    turns = {role: turns_of(rows) for role, rows in texts.items()}
    methods = {name: method.definition for name, method in settings.methods_of(pair).items()}
    default_roles = {name: rule.default_role for name, rule in methods.items() if not rule.drafts}
    records = {
        role: _default_records(pair, dataset, role, models[role], columns, is_wanted)
        for role in set(default_roles.values())
    }
    return {
        name: _method_texts(fused.filter(method=name), records[role], turns)
        for name, role in default_roles.items()
    }


def _default_records(
    pair: str, dataset: str, role: str, model: str, columns: list, is_wanted: pl.Expr
) -> dict[str, pl.DataFrame]:
    """Writer to these columns of a default model's records, on its own text and on the large model's."""
    reads = parquet.scan(paths.read_by_small(pair, dataset) / "reads-*.parquet")
    sources = {
        role: parquet.scan(paths.dumps(model, dataset) / "tokens-*.parquet"),
        "large": reads.filter(reader=role, writer="large"),
    }
    # lists are cut before any row is in memory: a stored list is many times as wide as what routers see
    return {writer: rows.filter(is_wanted).select(columns).collect() for writer, rows in sources.items()}


def _method_texts(
    fused: pl.DataFrame, records: dict[str, pl.DataFrame], turns: dict[str, dict[str, tuple[Turn, ...]]]
) -> DumpedTexts:
    """A method's fused tokens joined with the default model's records, by writer in the order of sources."""
    parts = []
    for source, (writer, rows) in enumerate(records.items()):
        ends = {prompt_id: text[-1].end for prompt_id, text in turns[writer].items()}
        part = fused.filter(writer=writer).join(rows, on=KEY, validate="1:1")
        part = part.filter(pl.col("pos") < pl.col("prompt_id").replace_strict(ends))
        parts.append(part.with_columns(source=pl.lit(source)))
    default_turns, large_turns = (turns[writer] for writer in records)
    return DumpedTexts(pl.concat(parts).sort("source", *KEY), (default_turns, large_turns))
