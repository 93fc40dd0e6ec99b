"""What the token explorer shows: every policy's text on some prompts, and what each model predicts along it.

Texts of one prompt share prefixes, and what models say depends on the prefix alone. So a prompt's texts are
one tree: node 0 is the empty text, every other node its parent's text and one more token. Records and fused
tokens belong to nodes, decisions to policies. Numbers are small integers where a page needs no more.
"""

import json
from collections.abc import Iterator, Mapping

import duckdb
import numpy as np
import polars as pl

from fsgen.collaboration.calibration import read_calibration
from fsgen.config.policies import Policy
from fsgen.config.schema import PairConfig, Settings
from fsgen.tables import lake, parquet, paths

CALLED, OUTSIDE, FROM_TEMPLATE, MISMATCH = 1, 2, 4, 8  # bits of a token's hex digit
SCALE = 10_000  # probabilities and nats in steps of 0.0001


def explore(settings: Settings) -> dict:
    """Everything that the explorer shows of the pairs, as JSON can hold it."""
    connection = lake.connect()
    datasets = {name: _explore_dataset(settings, connection, name) for name in settings.datasets}
    return {"datasets": datasets, "pieces": _pieces(settings.pairs, datasets)}


def _explore_dataset(settings: Settings, connection: duckdb.DuckDBPyConnection, dataset: str) -> dict:
    """The prompts whose texts models read closely, and each pair's texts on them."""
    records = connection.sql(f"select * from rollout_logits where dataset = '{dataset}'").pl()
    records = records.filter(pl.col("pair").is_in(list(settings.pairs)))
    shown = records["prompt_id"].unique().to_list()
    prompts = parquet.read(paths.prompts(dataset)).sort("order").filter(pl.col("prompt_id").is_in(shown))
    by_pair = sorted(records.partition_by("pair", as_dict=True).items())
    return {
        "prompts": [_prompt(row) for row in prompts.iter_rows(named=True)],
        "pairs": {pair: _explore_pair(settings, connection, pair, dataset, r) for (pair,), r in by_pair},
    }


def _prompt(row: dict) -> dict:
    """Id, turns and gold answer of a row of the prompts table."""
    gold = json.loads(row["gold"])
    return {
        "id": row["prompt_id"],
        "asked": [row["plain"], *(turn["plain"] for turn in row["follow_ups"])],
        "gold": str(gold.get("answer", gold.get("target", row["gold"]))),
    }


def _explore_pair(
    settings: Settings, connection: duckdb.DuckDBPyConnection, pair: str, dataset: str, records: pl.DataFrame
) -> dict:
    """One pair on one dataset: models, policies with their thresholds, a tree of texts a prompt."""
    policies = {policy.name: policy for policy in settings.policies_of(pair) if policy.draft is None}
    methods = {name: settings.methods[name] for name in dict.fromkeys(p.method for p in policies.values())}
    calibrated = read_calibration(pair, dataset).routers
    return {
        "models": settings.pairs[pair].roles(),
        "default_roles": {name: method.definition.default_role for name, method in methods.items()},
        "policies": {
            name: {"method": policy.method, "router": policy.router, "threshold": calibrated[name].threshold}
            for name, policy in policies.items()
        },
        "texts": _texts(connection, pair, dataset, policies, records),
    }


def _texts(
    connection: duckdb.DuckDBPyConnection,
    pair: str,
    dataset: str,
    policies: dict[str, Policy],
    records: pl.DataFrame,
) -> dict[str, dict]:
    """Prompt to the tree of its texts, with the verdict on every policy's last turn."""
    where = f"pair = '{pair}' and dataset = '{dataset}'"
    tokens = connection.sql(
        f"select * from rollout_tokens where {where} order by policy, prompt_id, pos"
    ).pl()
    graded = connection.sql(f"select * from policy_grades where {where} order by turn").pl()
    verdicts = {(p, i): v for p, i, v in graded.select("policy", "prompt_id", "verdict").iter_rows()}
    texts = {}
    for (prompt_id,), read in records.partition_by("prompt_id", as_dict=True).items():
        decisions = tokens.filter(prompt_id=prompt_id).partition_by("policy", as_dict=True)
        texts[prompt_id] = _tree_of_texts(policies, decisions, read)
        for name, entry in texts[prompt_id]["policies"].items():
            entry["verdict"] = verdicts.get((name, prompt_id))
    return texts


def _tree_of_texts(
    policies: dict[str, Policy], decisions: dict[tuple[str], pl.DataFrame], records: pl.DataFrame
) -> dict:
    """The tree of one prompt's texts as JSON can hold it.

    `decisions` are the rows of each policy's text, by position; `records` are the models' on distinct texts.
    """
    tree = _Tree()
    entries, nodes = {}, {}
    for name, policy in policies.items():
        if (name,) in decisions:
            rows = decisions[(name,)]
            nodes[name] = tree.add_text(rows, policy.method)
            leaf = nodes[name][-1]
            entries[name] = {"leaf": leaf, "marks": _marks(rows), "scores": _scores(rows["score"])}
    says = _records_by_node(records, nodes, len(tree.tokens))
    return {
        "parent": tree.parents,
        "token": tree.tokens,
        "says": says,
        "fused": tree.fused,
        "policies": entries,
    }


class _Tree:
    """Texts that share prefixes. Node 0 is the empty text."""

    def __init__(self):
        self.parents, self.tokens = [-1], [-1]
        self.fused: dict[str, dict[int, int]] = {}
        """Method to the fused token after a node's text."""
        self._children: dict[tuple[int, int], int] = {}

    def add_text(self, rows: pl.DataFrame, method: str) -> list[int]:
        """Add a policy's text with its fused tokens; returns its nodes, the empty text first."""
        nodes = [0]
        for token, fused, is_from_template in rows.select(
            "token_id", "fused_id", "from_template"
        ).iter_rows():
            if not is_from_template:
                self.fused.setdefault(method, {})[nodes[-1]] = fused
            nodes.append(self._child(nodes[-1], token))
        return nodes

    def _child(self, node: int, token: int) -> int:
        """The node of the text with one more token, which is added where it is new."""
        if (node, token) not in self._children:
            self._children[node, token] = len(self.parents)
            self.parents.append(node)
            self.tokens.append(token)
        return self._children[node, token]


def _records_by_node(records: pl.DataFrame, nodes: dict[str, list[int]], count: int) -> dict[str, list]:
    """Reader to what it says after the text of every node, None where it did not look.

    Equal texts of several policies have one record, which lists these policies; the first leads to its nodes.
    """
    says = {reader: [None] * count for reader in records["reader"].unique().sort()}
    records = records.with_columns(pl.col("policies").list.first())
    for (reader, policy), rows in records.partition_by("reader", "policies", as_dict=True).items():
        columns = rows.sort("pos").select("entropy", "logsumexp", "top_ids", "top_logits")
        for node, record in zip(nodes[policy][:-1], columns.iter_rows(), strict=True):
            says[reader][node] = _record(*record)
    return says


def _record(entropy: float, logsumexp: float, ids: list[int], logits: list[float]) -> list[int]:
    """Entropy, then ids and their probabilities in turn, falling."""
    probabilities = np.round(SCALE * np.exp(np.array(logits, np.float64) - logsumexp)).astype(int).tolist()
    return [round(SCALE * entropy), *(x for both in zip(ids, probabilities, strict=True) for x in both)]


def _marks(rows: pl.DataFrame) -> str:
    """A hex digit a token: called, outside the answer, from the template, and where the two tokens differ."""
    bits = (
        CALLED * rows["called"].fill_null(False).cast(int)
        + OUTSIDE * (~rows["in_answer"]).cast(int)
        + FROM_TEMPLATE * rows["from_template"].cast(int)
        + MISMATCH * rows["mismatch"].fill_null(False).cast(int)
    )
    return "".join(f"{bit:x}" for bit in bits)


def _scores(scores: pl.Series) -> list[int | None] | None:
    """Scores in steps of 1/SCALE; None for a router without any."""
    if scores.null_count() == len(scores):
        return None
    return [None if score is None else round(SCALE * score) for score in scores]


def _pieces(pairs: Mapping[str, PairConfig], datasets: dict) -> dict[str, dict[int, str]]:
    """Large model to the text of every id that occurs; models of a pair share their vocabulary."""
    used: dict[str, set[int]] = {}
    for dataset in datasets.values():
        for pair, entry in dataset["pairs"].items():
            ids = used.setdefault(pairs[pair].large, set())
            for tree in entry["texts"].values():
                ids.update(token_ids(tree))
    return {model: _read_pieces(model, ids) for model, ids in used.items()}


def _read_pieces(model: str, ids: set[int]) -> dict[int, str]:
    table = parquet.read(paths.vocabulary(model), ["token_id", "piece"])
    return dict(table.filter(pl.col("token_id").is_in(list(ids))).iter_rows())


def token_ids(tree: dict) -> Iterator[int]:
    """Ids of all tokens that a tree of texts mentions, repeats included."""
    yield from tree["token"][1:]
    for records in tree["says"].values():
        for record in filter(None, records):
            yield from record[1::2]
    for fused in tree["fused"].values():
        yield from fused.values()
