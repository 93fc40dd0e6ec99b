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
_LAWS = {
    "points": "CoF of every pair with both sizes",
    "fits": "how well each law describes and predicts a series of points",
    "parameters": "the laws' parameters with their intervals",
    "errors": "what each law predicted for points that it was not fitted to",
    "curves": "the fitted laws on a grid of sizes",
    "covariates": "whether the small model's entropy predicts CoF better than sizes",
    "claims": "how many points lie above 20 %",
    "foretold": "what the published laws say of the pairs run here, beside what these measured",
}
_UNCERTAINTY = {
    "discrimination": "how well scores tell mismatches from matches",
    "reliability": "mismatch rates by tenth of a score",
    "lorenz": "share of all mismatches in the most doubtful tokens",
    "positions": "mismatch rates by position",
    "places": "mismatch rates at first tokens and sentence starts",
    "effects": "odds ratios of position without and with entropy",
    "embedding": "tokens in the plane by their top probabilities",
}
_COMPARED = {
    "frontier": "what policies call and cost, and what they get right for it",
    "duels": "two routers at equal budget on the same prompts",
    "estimates": "off-policy estimates beside what rollouts counted",
    "survival": "share of texts that a policy still writes, by position",
    "forks": "a text's first unrouted mismatch, and what became of it",
    "reconvergence": "how often texts come together again after one",
    "acceptance": "acceptance rates of drafting, greedy and sampled",
    "drafts": "accepted lengths of drafting K tokens a round",
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
    "solo": View("tokens of a model writing alone", "dumps/*/*/tokens-*.parquet", _MODEL, dumps.TOKENS),
    "solo_texts": View("texts of a model writing alone", "dumps/*/*/texts-*.parquet", _MODEL, dumps.TEXTS),
    "large_reads": View(
        "the large model on the speakers' texts", "large/*/*/reads-*.parquet", _PAIR, dumps.READS
    ),
    "small_reads": View(
        "small and tuned on all texts of a pair", "small/*/*/reads-*.parquet", _PAIR, dumps.READS
    ),
    "fused": View(
        "every method at every dumped position", "fused/*/*/fused-*.parquet", _PAIR, collaboration.FUSED
    ),
    "routed": View(
        "simulated policies (estimates)", "routes/*/*/routed-*.parquet", _PAIR, collaboration.ROUTED
    ),
    "rolled": View(
        "tokens that policies wrote themselves", "rollouts/*/*/tokens-*.parquet", _PAIR, dumps.ROLLED
    ),
    "rolled_texts": View(
        "texts that policies wrote themselves", "rollouts/*/*/texts-*.parquet", _PAIR, dumps.ROLLED_TEXTS
    ),
    "steps": View("model steps that a shard's tree took", "rollouts/*/*/steps-*.parquet", _PAIR, dumps.STEPS),
    "graded_solo": View(
        "verdicts on models alone",
        "graded/models/*/*.parquet",
        {"model": -2, "dataset": -1},
        tasks.MODEL_GRADES,
    ),
    "graded": View(
        "verdicts on policies", "graded/pairs/*/*.parquet", {"pair": -2, "dataset": -1}, tasks.POLICY_GRADES
    ),
    "tallies": View(
        "a policy on a prompt: counts, costs, verdict",
        "counts/*/policies.parquet",
        {"dataset": -2},
        counts.POLICIES,
    ),
    "scores": View(
        "every router's score at every test position",
        "routes/*/*/scores-*.parquet",
        _PAIR,
        collaboration.SCORES,
    ),
    "models": View("every model with its sizes", "catalogue/models.parquet", {}, catalogue.MODELS),
    "pairs": View("the models of every pair by role", "catalogue/pairs.parquet", {}, catalogue.PAIRS),
    "policies": View(
        "every policy of every pair, in its parts", "catalogue/policies.parquet", {}, catalogue.POLICIES
    ),
    "closeups": View(
        "all models of a pair at every position of some policies' texts",
        "rollout_logits/*/*/reads-*.parquet",
        _PAIR,
        dumps.ROLLOUT_LOGITS,
    ),
    "vocabulary": View(
        "what a model's tokens spell", "vocabulary/*.parquet", {"model": -1}, catalogue.VOCABULARY
    ),
    **_views_of("laws", "basis", _LAWS, scaling.TABLES),
    **_views_of("uncertainty", "dataset", _UNCERTAINTY, uncertainty.TABLES),
    **_views_of("compared", "dataset", _COMPARED, comparison.TABLES),
}

_KEY = {
    "pair": "pair, a key of params.yaml",
    "dataset": "dataset, a key of params.yaml",
    "prompt_id": "prompt that the text answers",
    "turn": "turn of the conversation, from 1",
    "pos": "place of the token in the text, from 0, through all turns",
}
JOINED = {
    "sides": Joined(
        "small and large model side by side at every position of each other's texts",
        ("solo", "small_reads", "large_reads", "pairs", "vocabulary"),
        _KEY
        | {
            "writer": "role of the model that wrote the text: small or large",
            "in_answer": "whether ratios count this row",
            "forced": "whether the token was given, not chosen",
            "token_id": "the token that stands here",
            "piece": "its text",
            "kind": "word, number, punctuation, space or special",
            "small_id": "the small model's most likely token",
            "small_piece": "its text",
            "small_probability": "its probability",
            "small_entropy": "entropy of the small model, nats",
            "large_id": "the large model's most likely token",
            "large_piece": "its text",
            "large_probability": "its probability",
            "large_entropy": "entropy of the large model, nats",
            "disagree": "whether small_id and large_id differ",
        },
        """
        with large_says as (
            select pair, dataset, 'large' as writer, prompt_id, turn, pos,
                   top_ids, max_logit, logsumexp, entropy
            from solo join pairs using (model, dataset) where role = 'large'
            union all
            select pair, dataset, writer, prompt_id, turn, pos, top_ids, max_logit, logsumexp, entropy
            from large_reads where writer = 'small'
        ), met as (
            select s.pair, s.dataset, s.prompt_id, s.turn, s.pos, s.writer, s.in_answer, s.forced, s.token_id,
                   s.top_ids[1] as small_id, exp(s.max_logit - s.logsumexp) as small_probability,
                   s.entropy as small_entropy,
                   l.top_ids[1] as large_id, exp(l.max_logit - l.logsumexp) as large_probability,
                   l.entropy as large_entropy
            from small_reads s join large_says l using (pair, dataset, writer, prompt_id, turn, pos)
            where s.reader = 'small'
        )
        select pair, dataset, prompt_id, turn, pos, writer, in_answer, forced,
               token_id, here.piece, here.kind,
               small_id, by_small.piece as small_piece, small_probability, small_entropy,
               large_id, by_large.piece as large_piece, large_probability, large_entropy,
               small_id <> large_id as disagree
        from met join pairs using (pair, dataset)
        join vocabulary here using (model, token_id)
        join vocabulary by_small on by_small.model = pairs.model and by_small.token_id = small_id
        join vocabulary by_large on by_large.model = pairs.model and by_large.token_id = large_id
        where role = 'large'
        """,
    ),
    "spelt": Joined(
        "tokens that policies wrote themselves, as text, with the verdict on the whole",
        ("rolled", "graded", "pairs", "vocabulary"),
        _KEY
        | {
            "policy": "policy that wrote the text",
            "in_answer": "whether ratios count this row",
            "forced": "whether the token was given, not chosen",
            "piece": "text of the token written",
            "default_piece": "text of the token without the large model",
            "fused_piece": "text of the method's collaborative token",
            "called": "whether the router called the large model",
            "mismatch": "whether the two tokens differ",
            "entropy": "entropy of the model that would speak, nats",
            "score": "what the policy's router compares with its threshold; null without one",
            "verdict": "right, wrong or unknown; null where a judge rates instead",
        },
        """
        select pair, dataset, prompt_id, turn, pos, policy, in_answer, forced, here.piece,
               by_default.piece as default_piece, by_fused.piece as fused_piece,
               called, mismatch, entropy, score, verdict
        from rolled join graded using (pair, dataset, policy, prompt_id, turn)
        join pairs using (pair, dataset)
        join vocabulary here using (model, token_id)
        left join vocabulary by_default on by_default.model = pairs.model and by_default.token_id = default_id
        left join vocabulary by_fused on by_fused.model = pairs.model and by_fused.token_id = fused_id
        where role = 'large'
        """,
    ),
}
