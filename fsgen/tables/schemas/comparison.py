"""Tables of the `compare` stage: policies against each other, estimates against rollouts,"""

import pyarrow as pa

from fsgen.tables import parquet
from fsgen.tables.columns import CI_COLUMNS, PAIR, POLICY

AXES = {
    "call_ratio": "answer tokens at which the large model was called, a share",
    "large_positions": "positions that the large model processed, per answer token",
    "flops": "floating-point operations of all models, per prompt",
}

FRONTIER = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("budget", pa.float64(), "call ratio that it aims at; null of a policy without one"),
        ("axis", pa.string(), "; ".join(f"{name}: {about}" for name, about in AXES.items())),
        ("x", pa.float64(), "what it came to on test prompts"),
        ("x_low", pa.float64(), "lower end of its 95 % interval over prompts; null where they bound none"),
        ("x_high", pa.float64(), "upper end; null where they bound none"),
        ("accuracy", pa.float64(), "share of test prompts answered right"),
        *CI_COLUMNS,
        ("prompts", pa.int64(), "test prompts"),
    ]
)

ROUTER_COMPARISONS = parquet.schema(
    [
        PAIR,
        ("method", pa.string(), "method of both"),
        ("router", pa.string(), "router"),
        ("rival", pa.string(), "the other router"),
        ("budget", pa.float64(), "achieved call ratio at which both are compared, between their policies"),
        ("difference", pa.float64(), "accuracy of router less that of rival, on the same prompts"),
        *CI_COLUMNS,
        ("probability", pa.float64(), "share of resampled prompt sets on which router wins, ties half"),
    ]
)


ESTIMATES = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("quantity", pa.string(), "call_ratio or intervention_ratio"),
        ("estimate", pa.float64(), "off-policy: counted along the default speaker's dumped text"),
        ("estimate_low", pa.float64(), "lower end of its 95 % interval over prompts"),
        ("estimate_high", pa.float64(), "upper end"),
        ("exact", pa.float64(), "on-policy: counted on the text that the policy wrote"),
        ("exact_low", pa.float64(), "lower end"),
        ("exact_high", pa.float64(), "upper end"),
        ("difference", pa.float64(), "estimate less exact, on the same prompts"),
        ("difference_low", pa.float64(), "lower end"),
        ("difference_high", pa.float64(), "upper end"),
    ]
)

SURVIVAL = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("pos", pa.int64(), "tokens written"),
        ("at_risk", pa.int64(), "texts that go on from there and provably have not been left before"),
        ("survival", pa.float64(), "share of texts that the policy still writes (Kaplan-Meier)"),
        *CI_COLUMNS,
    ]
)


FORKS = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("prompt_id", pa.string(), "test prompt"),
        (
            "pos",
            pa.int64(),
            "first mismatch that the policy did not route, against its method's +always, in its own answer",
        ),
        ("entropy", pa.float64(), "entropy of the default speaker there, nats"),
        ("back_after", pa.int64(), "tokens until both answers say the same again; null if they never do"),
        (
            "same_answer",
            pa.bool_(),
            "whether both end with the same answer (for code: program), spelt alike; "
            "null where one has none or a judge rates",
        ),
    ]
)

RECONVERGENCE = parquet.schema(
    [
        PAIR,
        ("method", pa.string(), "method"),
        ("router", pa.string(), "router; `all` for every policy of the method, equal texts once"),
        ("entropy_low", pa.float64(), "lower bound of the mismatch's entropy, nats"),
        ("entropy_high", pa.float64(), "upper bound"),
        ("events", pa.int64(), "texts with such a first unrouted mismatch"),
        ("within", pa.int64(), "tokens within which the texts come together again"),
        ("share", pa.float64(), "share of the events in which they do"),
        *CI_COLUMNS,
        ("same_answer", pa.float64(), "share with the same final answer, spelt alike, where both have one"),
        ("same_low", pa.float64(), "lower end"),
        ("same_high", pa.float64(), "upper end"),
    ]
)


ACCEPTANCE = parquet.schema(
    [
        PAIR,
        ("quantity", pa.string(), "greedy: argmaxes agree; sampled: expected sum of min(p, q)"),
        ("value", pa.float64(), "acceptance rate along the large model's text; sampled: what is certified"),
        ("value_high", pa.float64(), "sampled: the certified upper bound"),
        ("low", pa.float64(), "lower end of the 95 % interval of `value` over prompts"),
        ("high", pa.float64(), "upper end of the 95 % interval of `value_high`"),
    ]
)

DRAFTS = parquet.schema(
    [
        PAIR,
        ("draft", pa.int64(), "tokens drafted a round, K"),
        ("accepted", pa.float64(), "of them accepted, mean over rounds; the added token is not counted"),
        *CI_COLUMNS,
        ("tokens_per_pass", pa.float64(), "tokens of the text for each pass of the large model"),
        ("passes_low", pa.float64(), "lower end"),
        ("passes_high", pa.float64(), "upper end"),
    ]
)

SPEEDUPS = parquet.schema(
    [
        PAIR,
        ("draft", pa.int64(), "tokens drafted a round, K"),
        ("cost_ratio", pa.float64(), "time of a small model's step over that of a large model's pass"),
        ("speedup", pa.float64(), "expected time of the large model alone over that of drafting"),
        *CI_COLUMNS,
        ("own_cost_ratio", pa.float64(), "the pair's ratio of FLOPs a token, a stand-in for time"),
    ]
)


TABLES = {
    "frontier": FRONTIER,
    "duels": ROUTER_COMPARISONS,
    "estimates": ESTIMATES,
    "survival": SURVIVAL,
    "forks": FORKS,
    "reconvergence": RECONVERGENCE,
    "acceptance": ACCEPTANCE,
    "drafts": DRAFTS,
    "speedups": SPEEDUPS,
}
