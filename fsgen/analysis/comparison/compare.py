"""Compare the policies of every pair on every dataset, and write what comes of it as tables."""

import polars as pl

from fsgen.analysis import intervals, policy_costs
from fsgen.analysis.comparison import divergence, drafting, frontiers, off_policy
from fsgen.config.schema import Settings
from fsgen.execution import console
from fsgen.models import description
from fsgen.tables import files, lake, parquet, paths

TABLES = {
    "frontier": frontiers.FRONTIER,
    "duels": frontiers.ROUTER_COMPARISONS,
    "estimates": off_policy.ESTIMATES,
    "survival": off_policy.SURVIVAL,
    "forks": divergence.FORKS,
    "reconvergence": divergence.RECONVERGENCE,
    "acceptance": drafting.ACCEPTANCE,
    "drafts": drafting.DRAFTS,
    "speedups": drafting.SPEEDUPS,
}
KEPT = """
    select policy, prompt_id, count(*) filter (on_text and not is_open) as kept,
           bool_or(on_text and not is_open and called and mismatch) as is_left
    from (
        -- what a call would change is not known here; of a router that knows mismatches, nor is the call
        select *, certificate = 'uncertain' and (called or list_contains({knowing}, policy)) as is_open
        from routed where {here}
    ) group by all order by policy, prompt_id
"""
TEXTS = """
    select policy, prompt_id, token_ids, entropies, in_answer, answer
    from (
        select policy, prompt_id, list(token_id order by pos) as token_ids,
               list(entropy order by pos) as entropies, list(in_answer order by pos) as in_answer
        from rolled where {here} group by all
    ) join (
        -- what is extracted of a judge's reply is its rating
        select policy, prompt_id,
               nullif(string_agg(extracted, chr(10) order by turn) filter (rating is null), '') as answer
        from graded where {here} group by all
    ) using (policy, prompt_id) order by policy, prompt_id
"""
DRAFTED = """
    select prompt_id, turn, pos, mismatch, in_answer, accept_low, accept_high
    from fused where {here} and writer = 'large' and method = '{method}' and in_answer
    order by prompt_id, pos
"""


def compare(settings: Settings) -> None:
    """Write data/compared/<dataset>/*.parquet and metrics/comparisons.json."""
    out, told = paths.comparisons(), {}
    with files.atomic_folder(out) as folder:
        for dataset in settings.datasets:
            rows = {name: [] for name in TABLES}
            for pair in settings.pairs:
                for name, own in compare_pair(settings, pair, dataset).items():
                    rows[name] += [{"pair": pair} | row for row in own]
            for name, schema in TABLES.items():
                parquet.write(folder / dataset / f"{name}.parquet", rows[name], schema)
            told[dataset] = summarise(rows)
    path = files.write_metrics("comparisons", told)
    console.done(f"{path}: {len(settings.pairs)} pairs compared on {', '.join(settings.datasets)}; {out}/")


def compare_pair(settings: Settings, pair: str, dataset: str) -> dict[str, list[dict]]:
    """Rows of every table of TABLES but their pair."""
    seed, known = settings.seed, {policy.name: policy for policy in settings.policies_of(pair)}
    lake_ = lake.connect()
    tests = f"(select prompt_id from prompts where dataset = '{dataset}' and split = 'test')"
    here = f"pair = '{pair}' and dataset = '{dataset}' and prompt_id in {tests}"
    counts = paths.counts(dataset)
    policies = parquet.read(counts / "policies.parquet").filter(pair=pair)
    estimates = parquet.read(counts / "estimates.parquet").filter(pair=pair)
    texts, kept = lake_.sql(TEXTS.format(here=here)).pl(), _kept(settings, pair, lake_, here)
    forks = pl.DataFrame([*divergence.fork_rows(texts, known)], infer_schema_length=None)  # nulls come first
    return {
        "frontier": [*frontiers.frontier_rows(policies, known, seed=seed)],
        "duels": [*frontiers.router_comparison_rows(policies, known, seed=seed)],
        "estimates": [*off_policy.estimate_rows(estimates, policies, known, seed=seed)],
        "survival": [*off_policy.survival_rows(kept, known)],
        "forks": forks.to_dicts(),
        "reconvergence": [*divergence.reconvergence_rows(forks, seed=seed)] if len(forks) else [],
        **_drafting(settings, pair, lake_, here),
    }


def _kept(settings: Settings, pair: str, lake_, here: str) -> pl.DataFrame:
    """How long each policy provably writes the dumped text, and whether it then leaves it: a row a text."""
    perfect = {name for name, router in settings.routers.items() if router.rule == "perfect"}
    knowing = [policy.name for policy in settings.policies_of(pair) if policy.router in perfect]
    return lake_.sql(KEPT.format(here=here, knowing=knowing)).pl()


def _drafting(settings: Settings, pair: str, lake_, here: str) -> dict[str, list[dict]]:
    """The tables on speculative decoding; empty where params.yaml names no such method."""
    names = [name for name, method in settings.methods_of(pair).items() if method.rule == "speculative"]
    if not names:
        return {"acceptance": [], "drafts": [], "speedups": []}
    rows = lake_.sql(DRAFTED.format(here=here, method=names[0])).pl()
    members = settings.pairs[pair].members()
    sizes = (policy_costs.shape(description.read_description(members[role])) for role in ("small", "large"))
    small, large = (size.non_embedding + size.head for size in sizes)
    drafts, speedups = drafting.drafted_rows(rows, small / large, seed=settings.seed)
    accepted = [*drafting.acceptance_rows(rows, seed=settings.seed)]
    return {"acceptance": accepted, "drafts": drafts, "speedups": speedups}


def summarise(rows: dict[str, list[dict]]) -> dict:
    """What metrics/comparisons.json says of a dataset, pair by pair."""
    pairs = sorted({row["pair"] for own in rows.values() for row in own})
    return {
        pair: _summary({name: [row for row in own if row["pair"] == pair] for name, own in rows.items()})
        for pair in pairs
    }


def _summary(rows: dict[str, list[dict]]) -> dict:
    """Budgets met, routers against the coin, estimates against rollouts, reunions, drafting."""
    return {
        "budgets": {
            row["policy"]: {"target": row["budget"]} | intervals.rounded(row, "x", "x_low", "x_high")
            for row in rows["frontier"]
            if row["axis"] == "call_ratio" and row["budget"] is not None
        },
        "against_random": {
            f"{row['method']}+{row['router']}@{100 * row['budget']:g}": intervals.rounded(
                row, "difference", "low", "high"
            )
            | {"probability": round(row["probability"], 6)}
            for row in rows["duels"]
            if row["rival"] == "random"
        },
        "call_ratio_estimates": {
            row["policy"]: intervals.rounded(
                row, "estimate", "exact", "difference", "difference_low", "difference_high"
            )
            for row in rows["estimates"]
            if row["quantity"] == "call_ratio"
        },
        "reunited": {
            row["method"]: {"events": row["events"]}
            | intervals.rounded(row, "share", "low", "high", "same_answer", "same_low", "same_high")
            for row in rows["reconvergence"]
            if row["router"] == "never" and row["within"] == 16
        },
        "acceptance": {
            row["quantity"]: intervals.rounded(row, "value", "value_high", "low", "high")
            for row in rows["acceptance"]
        },
        "accepted_length": {
            str(row["draft"]): intervals.rounded(row, "accepted", "low", "high") for row in rows["drafts"]
        },
    }
