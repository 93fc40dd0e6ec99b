"""The views of the lake: what each is called, which files it reads, what it is for.

A plain view reads the Parquet files of one kind. A joined one puts plain views together as people ask for
them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from fsgen.tables.schemas import (
    catalogue,
    collaboration,
    comparison,
    counts,
    dumps,
    scaling,
    tasks,
    uncertainty,
)


class View(NamedTuple):
    """A view over the files that match `pattern`, with columns read from their paths."""

    about: str
    pattern: str
    path_columns: dict[str, int]
    """Column name to the place of its folder, counted from the end of the path (-1 is the file)."""
    schema: pa.Schema
    """Columns of the files, with a sentence each."""


class Joined(NamedTuple):
    """A view over other views."""

    about: str
    over: tuple[str, ...]
    """The views that it needs."""
    columns: dict[str, str]
    """Name to meaning, in order."""
    sql: str


_MODEL, _PAIR = {"model": -3, "dataset": -2}, {"pair": -3, "dataset": -2}
_SCALING = {
    "scaling_points": "CoF and both model sizes of every pair",
    "scaling_fits": "how well each law describes and predicts a series of points",
    "scaling_parameters": "the laws' parameters with their intervals",
    "scaling_held_out": "each law's prediction for points it was not fitted to",
    "scaling_curves": "the fitted laws on a grid of sizes",
    "scaling_covariates": "whether the small model's entropy predicts CoF better than sizes",
    "scaling_claims": "how many points lie above 20 %",
    "scaling_predictions": "the published laws' predictions for this project's pairs, with measured CoF",
}
_UNCERTAINTY = {
    "score_discrimination": "how well scores separate mismatches from matches",
    "score_calibration": "mismatch rate by decile of a score",
    "score_lorenz": "share of all mismatches among the most uncertain tokens",
    "mismatch_by_position": "mismatch rate by position",
    "mismatch_by_boundary": "mismatch rate at first tokens and sentence starts",
    "mismatch_odds_ratios": "odds ratios of position, without and with entropy",
    "projections": "tokens projected to the plane by their top probabilities",
}
_COMPARISONS = {
    "frontier": "cost and accuracy of every policy",
    "router_comparisons": "two routers at equal call ratio on the same prompts",
    "off_policy_estimates": "ratios estimated on dumped texts, with those of rollouts",
    "survival": "share of dumped texts that a policy still follows, by position",
    "divergences": "first unrouted mismatch of a text, and what follows it",
    "reconvergence": "how often texts become equal again after a divergence",
    "acceptance_rates": "acceptance rates of drafting, greedy and sampled",
    "accepted_lengths": "accepted lengths of drafting K tokens a round",
    "speedups": "expected speed-up of drafting by the cost of a draft",
}


def _views_of(
    stage: str, folder: str, abouts: Mapping[str, str], schemas: Mapping[str, pa.Schema]
) -> dict[str, View]:
    """Views of a stage that writes one file a table in one folder for each `folder` (the column's name)."""
    return {
        name: View(about, f"{stage}/*/{name}.parquet", {folder: -2}, schemas[name])
        for name, about in abouts.items()
    }


VIEWS = {
    "prompts": View("every prompt with its gold answer", "prompts/*.parquet", {"dataset": -1}, tasks.PROMPTS),
    "generated_tokens": View(
        "tokens that a model generated alone", "dumps/*/*/tokens-*.parquet", _MODEL, dumps.TOKENS
    ),
    "generated_texts": View(
        "texts that a model generated alone", "dumps/*/*/texts-*.parquet", _MODEL, dumps.TEXTS
    ),
    "teacher_forced": View(
        "scores of a pair's models (reader) along texts that another or the same one wrote (writer)",
        "teacher_forced/*/*/*/reads-*.parquet",
        _PAIR,
        dumps.READS,
    ),
    "fused_tokens": View(
        "every method's token at every dumped position",
        "fused/*/*/fused-*.parquet",
        _PAIR,
        collaboration.FUSED,
    ),
    "simulated_tokens": View(
        "calls of simulated policies along dumped texts (off-policy)",
        "routes/*/*/simulated-*.parquet",
        _PAIR,
        collaboration.SIMULATED,
    ),
    "rollout_tokens": View(
        "tokens that policies generated", "rollouts/*/*/tokens-*.parquet", _PAIR, dumps.ROLLOUT_TOKENS
    ),
    "rollout_texts": View(
        "texts that policies generated", "rollouts/*/*/texts-*.parquet", _PAIR, dumps.ROLLOUT_TEXTS
    ),
    "model_steps": View(
        "tokens that each model processed in a rollout", "rollouts/*/*/steps-*.parquet", _PAIR, dumps.STEPS
    ),
    "model_grades": View(
        "verdicts on models alone",
        "graded/models/*/*.parquet",
        {"model": -2, "dataset": -1},
        tasks.MODEL_GRADES,
    ),
    "policy_grades": View(
        "verdicts on policies", "graded/pairs/*/*.parquet", {"pair": -2, "dataset": -1}, tasks.POLICY_GRADES
    ),
    "policy_results": View(
        "counts, costs and verdict of every policy on every test prompt",
        "counts/*/policies.parquet",
        {"dataset": -2},
        counts.POLICIES,
    ),
    "router_scores": View(
        "every router's score at every test position",
        "routes/*/*/scores-*.parquet",
        _PAIR,
        collaboration.SCORES,
    ),
    "models": View("every model with its sizes", "catalogue/models.parquet", {}, catalogue.MODELS),
    "pairs": View("the models of every pair by role", "catalogue/pairs.parquet", {}, catalogue.PAIRS),
    "policies": View(
        "every policy of every pair with its method, router and budget",
        "catalogue/policies.parquet",
        {},
        catalogue.POLICIES,
    ),
    "rollout_logits": View(
        "top logits of all models of a pair along some policies' texts",
        "rollout_logits/*/*/reads-*.parquet",
        _PAIR,
        dumps.ROLLOUT_LOGITS,
    ),
    "vocabulary": View(
        "the text of a model's tokens", "vocabulary/*.parquet", {"model": -1}, catalogue.VOCABULARY
    ),
    **_views_of("scaling", "source", _SCALING, scaling.TABLES),
    **_views_of("uncertainty", "dataset", _UNCERTAINTY, uncertainty.TABLES),
    **_views_of("comparisons", "dataset", _COMPARISONS, comparison.TABLES),
}

_KEY = {
    "pair": "pair, a key of params.yaml",
    "dataset": "dataset, a key of params.yaml",
    "prompt_id": "prompt that the text answers",
    "turn": "turn of the conversation, from 1",
    "pos": "position of the token in the text, from 0, through all turns",
}
JOINED = {
    "token_pairs": Joined(
        "small and large model side by side at every position of each other's texts",
        ("generated_tokens", "teacher_forced", "pairs", "vocabulary"),
        _KEY
        | {
            "writer": "role of the model that wrote the text: small or large",
            "in_answer": "whether ratios count this row",
            "from_template": "token inserted by the chat template, not generated",
            "token_id": "the token at this position",
            "piece": "its text",
            "token_class": "word, number, punctuation, space or special",
            "small_id": "the small model's most likely token",
            "small_piece": "its text",
            "small_probability": "its probability",
            "small_entropy": "entropy of the small model, nats",
            "large_id": "the large model's most likely token",
            "large_piece": "its text",
            "large_probability": "its probability",
            "large_entropy": "entropy of the large model, nats",
            "mismatch": "whether small_id and large_id differ",
        },
        """
        with large_scores as (
            select pair, dataset, 'large' as writer, prompt_id, turn, pos,
                   top_ids, max_logit, logsumexp, entropy
            from generated_tokens join pairs using (model, dataset) where role = 'large'
            union all
            select pair, dataset, writer, prompt_id, turn, pos, top_ids, max_logit, logsumexp, entropy
            from teacher_forced where writer = 'small' and reader = 'large'
        ), joined as (
            select s.pair, s.dataset, s.prompt_id, s.turn, s.pos, s.writer, s.in_answer, s.from_template,
                   s.token_id,
                   s.top_ids[1] as small_id, exp(s.max_logit - s.logsumexp) as small_probability,
                   s.entropy as small_entropy,
                   l.top_ids[1] as large_id, exp(l.max_logit - l.logsumexp) as large_probability,
                   l.entropy as large_entropy
            from teacher_forced s join large_scores l using (pair, dataset, writer, prompt_id, turn, pos)
            where s.reader = 'small'
        )
        select pair, dataset, prompt_id, turn, pos, writer, in_answer, from_template,
               token_id, here.piece, here.token_class,
               small_id, by_small.piece as small_piece, small_probability, small_entropy,
               large_id, by_large.piece as large_piece, large_probability, large_entropy,
               small_id <> large_id as mismatch
        from joined join pairs using (pair, dataset)
        join vocabulary here using (model, token_id)
        join vocabulary by_small on by_small.model = pairs.model and by_small.token_id = small_id
        join vocabulary by_large on by_large.model = pairs.model and by_large.token_id = large_id
        where role = 'large'
        """,
    ),
    "rollout_pieces": Joined(
        "tokens that policies generated, as text, with the verdict on the answer",
        ("rollout_tokens", "policy_grades", "pairs", "vocabulary"),
        _KEY
        | {
            "policy": "policy that wrote the text",
            "in_answer": "whether ratios count this row",
            "from_template": "token inserted by the chat template, not generated",
            "piece": "text of the token written",
            "default_piece": "text of the token without the large model",
            "fused_piece": "text of the method's collaborative token",
            "called": "whether the router called the large model",
            "mismatch": "whether the two tokens differ",
            "entropy": "entropy of the default model, nats",
            "score": "what the policy's router compares with its threshold; null without one",
            "verdict": "right, wrong or unknown; null where a judge rates instead",
        },
        """
        select pair, dataset, prompt_id, turn, pos, policy, in_answer, from_template, here.piece,
               by_default.piece as default_piece, by_fused.piece as fused_piece,
               called, mismatch, entropy, score, verdict
        from rollout_tokens join policy_grades using (pair, dataset, policy, prompt_id, turn)
        join pairs using (pair, dataset)
        join vocabulary here using (model, token_id)
        left join vocabulary by_default on by_default.model = pairs.model and by_default.token_id = default_id
        left join vocabulary by_fused on by_fused.model = pairs.model and by_fused.token_id = fused_id
        where role = 'large'
        """,
    ),
}
