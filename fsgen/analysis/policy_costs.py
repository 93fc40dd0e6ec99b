"""What texts cost: the counts of policies that wrote or drafted them, priced by fsgen.analysis.costs.

Shape legend: N rows, T texts (turns, where a drafted text has several), R rounds.
"""

import numpy as np
import polars as pl

from fsgen.analysis import costs
from fsgen.config.roles import TUNED
from fsgen.config.schema import Settings


def shape(about: dict) -> costs.Shape:
    """What of a described model decides its FLOPs."""
    sizes, layers = about["parameters"], about["shape"]
    return costs.Shape(sizes["non_embedding"], sizes["head"], layers["layers"], layers["width"])


def rolled_flops(settings: Settings, pair: str, counts: pl.DataFrame, shapes: dict) -> np.ndarray:
    """FLOPs of each text that a policy wrote, [T].

    The default model processes all of it; the large one (and the small one, under proxy) up to the last call.
    `counts` holds policy, given, rows, large_prompt_tokens_processed and large_tokens_processed.
    """
    members = settings.pairs[pair].roles()
    asked_T, reached_T, given_T, rows_T = (
        counts[name].to_numpy()
        for name in ("large_prompt_tokens_processed", "large_tokens_processed", "given", "rows")
    )
    methods = {policy.name: settings.methods[policy.method] for policy in settings.policies_of(pair)}
    speaks = np.array([methods[name].definition.default_role for name in counts["policy"]])
    total_T = costs.flops(shapes[members["large"]], asked_T, reached_T)
    for role in set(speaks):
        every_T = costs.flops(shapes[members[role]], given_T - 1, rows_T)
        helper_T = costs.flops(shapes[members["small"]], asked_T, reached_T)
        spent_T = every_T + (helper_T if role == TUNED else 0.0)
        total_T = total_T + np.where(speaks == role, spent_T, 0.0)
    return total_T


def speculate(
    rows: pl.DataFrame, turns: pl.DataFrame, draft: int, small: costs.Shape, large: costs.Shape
) -> pl.DataFrame:
    """Counts and costs per prompt of drafting `draft` tokens a round along the large model's text.

    `rows`: prompt_id, turn, mismatch and in_answer of its tokens; `turns`: prompt_id, turn,
    prompt_tokens (given before the turn) and written; both sorted. Drafting begins anew with a turn.
    """
    text_N = pl.struct("prompt_id", "turn").rank("dense")
    text_N = rows.select(text_N).to_series().to_numpy() - 1
    rounds = costs.speculative_rounds(rows["mismatch"].to_numpy(), text_N, draft)
    counted_R = rows["in_answer"].to_numpy()[np.searchsorted(text_N, rounds.text_R) + rounds.start_R]
    # before a later turn the last token written is an input that is still to come
    prompt_T = turns["prompt_tokens"].to_numpy() + (turns["turn"].to_numpy() > 1)
    past = pl.col("prompt_tokens") + pl.col("written")
    held_T = turns.select((past.cum_sum() - past - 1).clip(0).over("prompt_id")).to_series().to_numpy()
    spent = costs.verified(rounds, prompt_T)
    by_turn = turns.select("prompt_id").with_columns(
        calls=np.bincount(rounds.text_R, weights=counted_R, minlength=len(turns)),
        large_forward_passes=spent.passes_T,
        large_tokens_processed=spent.positions_T,
        large_prompt_tokens_processed=spent.prompt_positions_T,
        flops=costs.speculative_flops(small, large, rounds, prompt_T, held_T),
    )
    changed = pl.col("in_answer") & pl.col("mismatch")
    counts = rows.group_by("prompt_id").agg(
        mismatches=changed.sum(), interventions=changed.sum(), mismatches_vs_small=changed.sum()
    )
    return by_turn.group_by("prompt_id").sum().join(counts, on="prompt_id", validate="1:1")
