"""Tables of the `compare` stage: policies, off-policy estimates, divergences and drafting."""

import pyarrow as pa

from fsgen.tables import parquet
from fsgen.tables.columns import PAIR, POLICY, with_interval

AXES = {
    "call_ratio": "answer tokens at which the large model was called, a share",
    "large_tokens_processed": "tokens that the large model processed, per answer token",
    "flops": "floating-point operations of all models, per prompt",
}

FRONTIER = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("budget", pa.float64(), "call ratio that it aims at; null of a policy without one"),
        ("cost_axis", pa.string(), "; ".join(f"{name}: {about}" for name, about in AXES.items())),
        *with_interval("cost", "cost on that axis, measured on test prompts"),
        *with_interval("accuracy", "share of test prompts answered right"),
        ("prompts", pa.int64(), "test prompts"),
    ]
)

ROUTER_COMPARISONS = parquet.schema(
    [
        PAIR,
        ("method", pa.string(), "method of both"),
        ("router", pa.string(), "router"),
        ("other_router", pa.string(), "the router it is compared with"),
        ("call_ratio", pa.float64(), "achieved call ratio at which both are compared, by interpolation"),
        *with_interval("accuracy_difference", "accuracy of router minus that of other_router, same prompts"),
        ("win_probability", pa.float64(), "share of resampled prompt sets on which router wins, ties half"),
    ]
)


OFF_POLICY_ESTIMATES = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("quantity", pa.string(), "call_ratio or intervention_ratio"),
        *with_interval("off_policy", "counted along the default model's dumped text"),
        *with_interval("on_policy_value", "counted on the text that the policy wrote"),
        *with_interval("difference", "off_policy minus on_policy_value, on the same prompts"),
    ]
)

SURVIVAL = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("pos", pa.int64(), "tokens written"),
        ("at_risk", pa.int64(), "texts that go on from there and provably have not been left before"),
        *with_interval("survival", "share of dumped texts that the policy still follows (Kaplan-Meier)"),
    ]
)


DIVERGENCES = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("prompt_id", pa.string(), "test prompt"),
        (
            "pos",
            pa.int64(),
            "first mismatch that the policy did not route, where the text leaves that of +always",
        ),
        ("entropy", pa.float64(), "entropy of the default model there, nats"),
        ("tokens_to_reconverge", pa.int64(), "tokens until both answers are equal again; null if never"),
        (
            "same_answer",
            pa.bool_(),
            "whether both end with the same answer string (for code: program); "
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
        ("window", pa.int64(), "tokens within which the texts reconverge"),
        *with_interval("reconverged_share", "share of the events in which they do"),
        *with_interval("same_answer", "share with the same final answer string, where both have one"),
    ]
)


ACCEPTANCE_RATES = parquet.schema(
    [
        PAIR,
        ("mode", pa.string(), "greedy: argmaxes agree; sampled: expected sum of min(p, q)"),
        (
            "rate",
            pa.float64(),
            "acceptance rate along the large model's text; sampled: a certified lower bound",
        ),
        ("rate_upper", pa.float64(), "sampled: the certified upper bound; greedy: rate"),
        ("rate_low", pa.float64(), "lower end of the 95 % interval of `rate` over prompts"),
        ("rate_high", pa.float64(), "upper end of the 95 % interval of `rate_upper`"),
    ]
)

ACCEPTED_LENGTHS = parquet.schema(
    [
        PAIR,
        ("draft_length", pa.int64(), "tokens drafted a round, K"),
        *with_interval("accepted_length", "drafts accepted a round, mean; the added token is not counted"),
        *with_interval("tokens_per_pass", "tokens of the text for each forward pass of the large model"),
    ]
)

SPEEDUPS = parquet.schema(
    [
        PAIR,
        ("draft_length", pa.int64(), "tokens drafted a round, K"),
        ("cost_ratio", pa.float64(), "time of a small model's step over that of a large model's pass"),
        *with_interval("speedup", "expected time of the large model alone over that of drafting"),
        ("flops_ratio", pa.float64(), "the pair's ratio of FLOPs a token, a proxy for its cost_ratio"),
    ]
)


TABLES = {
    "frontier": FRONTIER,
    "router_comparisons": ROUTER_COMPARISONS,
    "off_policy_estimates": OFF_POLICY_ESTIMATES,
    "survival": SURVIVAL,
    "divergences": DIVERGENCES,
    "reconvergence": RECONVERGENCE,
    "acceptance_rates": ACCEPTANCE_RATES,
    "accepted_lengths": ACCEPTED_LENGTHS,
    "speedups": SPEEDUPS,
}
