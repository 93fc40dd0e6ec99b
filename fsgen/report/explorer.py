"""What the token explorer shows: every policy's text on some prompts, and what each model said along it.

Texts of one prompt share prefixes, and what models say depends on the prefix alone. So a prompt's texts are
one tree: node 0 is the empty text, every other node its parent's text and one more token. Records and fused
tokens belong to nodes, decisions to policies. Numbers are small integers where a page needs no more.
"""

import json
from collections.abc import Iterable

import numpy as np
import polars as pl

from fsgen.collaboration import fusion
from fsgen.config.schema import Settings
from fsgen.tables import lake, parquet, paths

CALLED, OUTSIDE, FORCED, MISMATCH = 1, 2, 4, 8  # bits of a token's hex digit
SCALE = 10_000  # probabilities and nats in steps of 0.0001


def explore(settings: Settings) -> dict:
    """Everything that the explorer shows of the pairs, as JSON can hold it."""
    tables = lake.connect()
    found = {}
    for dataset in settings.datasets:
        closeups = tables.sql(f"select * from closeups where dataset = '{dataset}'").pl()
        closeups = closeups.filter(pl.col("pair").is_in(list(settings.pairs)))
        names = closeups["prompt_id"].unique().to_list()
        prompts = parquet.read(paths.prompts(dataset)).sort("order")
        prompts = prompts.filter(pl.col("prompt_id").is_in(names))
        found[dataset] = {
            "prompts": [_prompt(row) for row in prompts.iter_rows(named=True)],
            "pairs": {
                pair: _pair(settings, tables, pair, dataset, own)
                for (pair,), own in sorted(closeups.partition_by("pair", as_dict=True).items())
            },
        }
    return {"datasets": found, "pieces": _pieces(settings, found)}


def _prompt(row: dict) -> dict:
    asked = [row["plain"], *(later["plain"] for later in row["follow_ups"])]
    gold = json.loads(row["gold"])
    return {
        "id": row["prompt_id"],
        "asked": asked,
        "gold": str(gold.get("answer", gold.get("target", row["gold"]))),
    }


def _pair(settings: Settings, tables, pair: str, dataset: str, closeups: pl.DataFrame) -> dict:
    """One pair on one dataset: models, policies and their thresholds, and a tree of texts a prompt."""
    here = f"pair = '{pair}' and dataset = '{dataset}'"
    rolled = tables.sql(f"select * from rolled where {here} order by policy, prompt_id, pos").pl()
    verdicts = tables.sql(f"select * from graded where {here} order by turn").pl()
    said = {(p, i): v for p, i, v in verdicts.select("policy", "prompt_id", "verdict").iter_rows()}
    told = json.loads((paths.routes(pair) / "thresholds.json").read_text())[dataset]
    policies = {p.name: p for p in settings.policies_of(pair) if p.draft is None}
    cuts = {n: told.get(n, getattr(settings.routers.get(p.router), "at", None)) for n, p in policies.items()}
    methods = {p.method: settings.methods[p.method] for p in policies.values()}
    texts = {}
    for (name,), own in closeups.partition_by("prompt_id", as_dict=True).items():
        decided = rolled.filter(prompt_id=name).partition_by("policy", as_dict=True)
        rows = {p: decided[(p,)] for p in policies if (p,) in decided}
        texts[name] = _tree(rows, own, {n: p.method for n, p in policies.items()})
        for policy, entry in texts[name]["policies"].items():
            entry["verdict"] = said.get((policy, name))
    return {
        "models": settings.pairs[pair].members(),
        "speakers": {name: fusion.default_role(method) for name, method in methods.items()},
        "policies": {
            n: {"method": p.method, "router": p.router, "cut": cuts[n]} for n, p in policies.items()
        },
        "texts": texts,
    }


def _tree(rows: dict[str, pl.DataFrame], closeups: pl.DataFrame, method_of: dict[str, str]) -> dict:
    """The tree of a prompt's texts; `rows` are the decisions of each policy, by position."""
    parents, tokens, child = [-1], [-1], {}
    fused: dict[str, dict[int, int]] = {}
    policies, paths = {}, {}
    for policy, own in rows.items():
        node, path = 0, []
        for token, fused_id, is_forced in own.select("token_id", "fused_id", "forced").iter_rows():
            path.append(node)
            if not is_forced:
                fused.setdefault(method_of[policy], {})[node] = fused_id
            if (node, token) not in child:
                child[node, token] = len(parents)
                parents.append(node)
                tokens.append(token)
            node = child[node, token]
        policies[policy] = {"leaf": node, "marks": _marks(own), "scores": _steps(own["score"])}
        paths[policy] = path
    says = {role: [None] * len(parents) for role in closeups["reader"].unique().sort()}
    closeups = closeups.with_columns(pl.col("policies").list.first())
    for (reader, wrote), own in closeups.partition_by("reader", "policies", as_dict=True).items():
        records = own.sort("pos").select("entropy", "logsumexp", "top_ids", "top_logits").iter_rows()
        for node, record in zip(paths[wrote], records, strict=True):
            says[reader][node] = _said(*record)
    return {"parent": parents, "token": tokens, "says": says, "fused": fused, "policies": policies}


def _said(entropy: float, logsumexp: float, ids: list[int], logits: list[float]) -> list:
    """Entropy, then ids and their probabilities in turn, falling."""
    chances = np.round(SCALE * np.exp(np.array(logits, np.float64) - logsumexp)).astype(int).tolist()
    return [round(SCALE * entropy), *(x for both in zip(ids, chances, strict=True) for x in both)]


def _marks(own: pl.DataFrame) -> str:
    """A hex digit a token: called, outside the answer, given, and where the two tokens differ."""
    bits = (
        CALLED * own["called"].fill_null(False).cast(int)
        + OUTSIDE * (~own["in_answer"]).cast(int)
        + FORCED * own["forced"].cast(int)
        + MISMATCH * own["mismatch"].fill_null(False).cast(int)
    )
    return "".join(f"{bit:x}" for bit in bits)


def _steps(values: pl.Series) -> list[int | None] | None:
    """Scores in steps of 1/SCALE; None of a router without any."""
    if values.null_count() == len(values):
        return None
    return [None if value is None else round(SCALE * value) for value in values]


def _pieces(settings: Settings, found: dict) -> dict[str, dict[int, str]]:
    """What the ids that occur spell, by pair; models of a pair share their vocabulary."""
    used: dict[str, set[int]] = {}
    for dataset in found.values():
        for pair, entry in dataset["pairs"].items():
            ids = used.setdefault(settings.pairs[pair].large, set())
            for tree in entry["texts"].values():
                ids.update(_ids(tree))
    spelt = {}
    for model, ids in used.items():
        table = parquet.read(paths.vocabulary(model), ["token_id", "piece"])
        spelt[model] = dict(table.filter(pl.col("token_id").is_in(list(ids))).iter_rows())
    return spelt


def _ids(tree: dict) -> Iterable[int]:
    yield from tree["token"][1:]
    for records in tree["says"].values():
        for record in filter(None, records):
            yield from record[1::2]
    for own in tree["fused"].values():
        yield from own.values()
