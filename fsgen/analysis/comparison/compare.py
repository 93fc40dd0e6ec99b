"""Compare the policies of every pair on every dataset: the tables of data/comparisons/ and their summary."""

from collections.abc import Mapping
from typing import NamedTuple

import duckdb
import polars as pl

from fsgen.analysis import intervals, policy_costs
from fsgen.analysis.comparison import divergence, drafting, frontiers, off_policy
from fsgen.analysis.fixed_counts import fixed_counts
from fsgen.analysis.intervals import columns_of, interval_json
from fsgen.collaboration.routers import FUSED_TOKEN
from fsgen.config.policies import Policy, RouterConfig
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.models import description
from fsgen.tables import files, lake, parquet, paths
from fsgen.tables.schemas.comparison import TABLES

RECONVERGED_WITHIN = 16  # tokens, in the summary
# How many tokens of the dumped text each policy provably writes, and whether it then leaves that text.
KEPT = """
    select policy, prompt_id, count(*) filter (on_policy and not is_open) as kept,
           bool_or(on_policy and not is_open and called and mismatch) as is_left
    from (
        -- what a call would change is not known here; of a router that knows mismatches, nor is the call
        select *, not certified and (called or list_contains({knowing}, policy)) as is_open
        from simulated_tokens where {here}
    ) group by all order by policy, prompt_id
"""
# Every policy's text on every prompt as lists by position, with the answer that was extracted of it.
TEXTS = """
    select policy, prompt_id, token_ids, entropies, in_answer, answer
    from (
        select policy, prompt_id, list(token_id order by pos) as token_ids,
               list(entropy order by pos) as entropies, list(in_answer order by pos) as in_answer
        from rollout_tokens where {here} group by all
    ) join (
        -- what is extracted of a judge's reply is its rating
        select policy, prompt_id,
               nullif(string_agg(extracted, chr(10) order by turn) filter (rating is null), '') as answer
        from policy_grades where {here} group by all
    ) using (policy, prompt_id) order by policy, prompt_id
"""
# The answer tokens of the large model's own text: where the small one agrees, and how surely.
DRAFTED_ROWS = """
    select prompt_id, turn, pos, mismatch, in_answer, acceptance_low, acceptance_high
    from fused_tokens where {here} and writer = 'large' and method = '{method}' and in_answer
    order by prompt_id, pos
"""

Tables = dict[str, list[dict]]
"""Rows by table, a key of TABLES."""


class RouterGroups(NamedTuple):
    """Names of routers by what they do; params.yaml may give one rule several names."""

    never: frozenset[str]
    """They never call."""
    random: frozenset[str]
    """They call at random positions."""
    perfect: frozenset[str]
    """They know where the fused token differs."""


def group_routers(routers: Mapping[str, RouterConfig]) -> RouterGroups:
    """The routers of params.yaml that the comparisons treat apart."""
    definitions = {name: config.definition for name, config in routers.items()}
    return RouterGroups(
        never=frozenset(name for name, router in definitions.items() if router.calls is False),
        random=frozenset(
            name for name, router in definitions.items() if not router.needs and not router.is_constant
        ),
        perfect=frozenset(name for name, router in definitions.items() if FUSED_TOKEN in router.needs),
    )


def compare(settings: Settings) -> None:
    """Write data/comparisons/<dataset>/*.parquet and metrics/comparisons.json."""
    out, summary = paths.comparisons(), {}
    groups = group_routers(settings.routers)
    with files.atomic_folder(out) as folder:
        for dataset in settings.datasets:
            tables: Tables = {name: [] for name in TABLES}
            for pair in settings.pairs:
                for name, rows in compare_pair(settings, pair, dataset).items():
                    tables[name] += [{"pair": pair} | row for row in rows]
            for name, schema in TABLES.items():
                parquet.write(folder / dataset / f"{name}.parquet", tables[name], schema)
            summary[dataset] = summarise(tables, groups)
    path = files.write_metrics("comparisons", summary)
    console.done(f"{path}: {len(settings.pairs)} pairs compared on {', '.join(settings.datasets)}; {out}/")


def compare_pair(settings: Settings, pair: str, dataset: str) -> Tables:
    """Rows of every table of TABLES but their pair."""
    seed = settings.seed
    policies = {policy.name: policy for policy in settings.policies_of(pair)}
    fixed = fixed_counts(policies.values(), settings.routers)
    written = parquet.read(paths.counts(dataset) / "policies.parquet").filter(pair=pair)
    estimated = parquet.read(paths.counts(dataset) / "estimates.parquet").filter(pair=pair)
    connection, here = lake.connect(), _test_rows(pair, dataset)
    texts = connection.sql(TEXTS.format(here=here)).pl()
    knowing = _knowing_policies(policies, group_routers(settings.routers))
    kept = connection.sql(KEPT.format(here=here, knowing=knowing)).pl()
    # the first rows may hold nulls alone
    divergences = pl.DataFrame([*divergence.divergence_rows(texts, policies)], infer_schema_length=None)
    return {
        "frontier": [*frontiers.frontier_rows(written, policies, fixed, seed=seed)],
        "router_comparisons": [*frontiers.router_comparison_rows(written, policies, fixed, seed=seed)],
        "off_policy_estimates": [*off_policy.estimate_rows(estimated, written, policies, fixed, seed=seed)],
        "survival": [*off_policy.survival_rows(kept, policies)],
        "divergences": divergences.to_dicts(),
        "reconvergence": [*divergence.reconvergence_rows(divergences, seed=seed)] if len(divergences) else [],
        **_drafting_tables(settings, pair, connection, here),
    }


def _test_rows(pair: str, dataset: str) -> str:
    """The condition that a row is of this pair, on a test prompt of this dataset."""
    tests = f"(select prompt_id from prompts where dataset = '{dataset}' and split = 'test')"
    return f"pair = '{pair}' and dataset = '{dataset}' and prompt_id in {tests}"


def _knowing_policies(policies: Mapping[str, Policy], groups: RouterGroups) -> list[str]:
    return [name for name, policy in policies.items() if policy.router in groups.perfect]


def _drafting_tables(
    settings: Settings, pair: str, connection: duckdb.DuckDBPyConnection, here: str
) -> Tables:
    """The tables on speculative decoding; empty where params.yaml names no such method."""
    methods = [name for name, method in settings.methods_of(pair).items() if method.definition.drafts]
    if not methods:
        return {"acceptance_rates": [], "accepted_lengths": [], "speedups": []}
    rows = connection.sql(DRAFTED_ROWS.format(here=here, method=methods[0])).pl()
    cost_ratio = _token_flops(settings.pairs[pair].small) / _token_flops(settings.pairs[pair].large)
    return {
        "acceptance_rates": [*drafting.acceptance_rows(rows, seed=settings.seed)],
        **drafting.drafting_tables(rows, cost_ratio, seed=settings.seed)._asdict(),
    }


def _token_flops(model: str) -> int:
    """FLOPs of a model for one token, less its attention, up to a factor that all models share."""
    shape = policy_costs.shape(description.read_description(model))
    return shape.non_embedding + shape.head


def summarise(tables: Tables, groups: RouterGroups) -> dict:
    """The part of metrics/comparisons.json for a dataset, by pair."""
    pairs = sorted({row["pair"] for rows in tables.values() for row in rows})
    return {pair: _pair_json(_of_pair(tables, pair), groups) for pair in pairs}


def _of_pair(tables: Tables, pair: str) -> Tables:
    return {name: [row for row in rows if row["pair"] == pair] for name, rows in tables.items()}


def _pair_json(tables: Tables, groups: RouterGroups) -> dict:
    """Budgets met, routers against chance, estimates against rollouts, reconvergence, drafting."""
    return {
        "budgets": _budgets_json(tables["frontier"]),
        "against_random": _against_random_json(tables["router_comparisons"], groups.random),
        "call_ratio_estimates": _estimates_json(tables["off_policy_estimates"]),
        "reconverged": _reconverged_json(tables["reconvergence"], groups.never),
        "acceptance": {
            row["mode"]: intervals.rounded(row, "rate", "rate_upper", "rate_low", "rate_high")
            for row in tables["acceptance_rates"]
        },
        "accepted_length": {
            str(row["draft_length"]): interval_json(row, "accepted_length")
            for row in tables["accepted_lengths"]
        },
    }


def _budgets_json(frontier: list[dict]) -> dict:
    """By policy with a budget: the target call ratio and the measured one."""
    return {
        row["policy"]: {"target": row["budget"]} | interval_json(row, "cost")
        for row in frontier
        if row["cost_axis"] == "call_ratio" and row["budget"] is not None
    }


def _against_random_json(comparisons: list[dict], random: frozenset[str]) -> dict:
    """By method, router and budget: accuracy less that of calls by chance."""
    numbers = {}
    for row in comparisons:
        if row["other_router"] in random:
            name = f"{row['method']}+{row['router']}@{100 * row['call_ratio']:g}"
            columns = (*columns_of("accuracy_difference"), "win_probability")
            numbers[name] = intervals.rounded(row, *columns)
    return numbers


def _estimates_json(estimates: list[dict]) -> dict:
    """By policy: its call ratio off-policy, on-policy, and their difference."""
    columns = ("off_policy", "on_policy_value", *columns_of("difference"))
    return {
        row["policy"]: intervals.rounded(row, *columns)
        for row in estimates
        if row["quantity"] == "call_ratio"
    }


def _reconverged_json(reconvergence: list[dict], never: frozenset[str]) -> dict:
    """By method: how often a text that never called reconverges with the one that always did."""
    columns = (*columns_of("reconverged_share"), *columns_of("same_answer"))
    return {
        row["method"]: {"events": row["events"]} | intervals.rounded(row, *columns)
        for row in reconvergence
        if row["router"] in never and row["window"] == RECONVERGED_WITHIN
    }
