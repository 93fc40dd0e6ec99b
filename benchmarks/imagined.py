"""Imagined texts: what three models of unlike size see at every position, from a seed.

A position of a text is imagined once: some candidate ids and how far behind the best each lies. Every
model sees these with noise of its own on top of the next larger model's, so that smaller ones err more,
and more where the best lead is small, which is where they are in doubt.

Shape legend: P prompts of a block, N positions of a text table, C candidate ids of a position, F entries
of N ragged lists.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from fsgen.collaboration import fusion, routers
from fsgen.config.policies import method_table

DUMP = {"nats_below_top": 3.0, "min_top_k": 8, "max_top_k": 64}
CANDIDATES = DUMP["max_top_k"]
VOCABULARY = 64 * 2374  # as wide as Qwen2.5's output matrix
END = VOCABULARY - 1
AT_ONCE = 4096  # positions whose candidates stay in a core's cache


class Kind(NamedTuple):
    """A model: its sizes, and how it sees what all models see."""

    non_embedding: int
    head: int
    layers: int
    width: int
    noise: float
    """Nats on every logit, beside the noise of the next larger model."""
    slips: float
    """Share of positions at which it is surely wrong and the next larger model is not."""
    sharpness: float
    accuracy: float


MODELS = {
    "small": Kind(357_898_112, 136_134_656, 24, 896, 0.65, 0.020, 0.85, 0.45),
    "middle": Kind(2_774_773_760, 311_164_928, 36, 2048, 0.55, 0.018, 0.95, 0.65),
    "large": Kind(6_525_621_760, 544_997_376, 28, 3584, 0.30, 0.0, 1.0, 0.80),
}
PAIRS = {
    "small-middle": ("small", "middle"),
    "small-large": ("small", "large"),
    "middle-large": ("middle", "large"),
}
METHODS = {
    "oracle": {"rule": "oracle"},
    "speculative": {"rule": "speculative"},
    "contrastive_li2022": {"rule": "li2022", "alpha": 0.1, "tau": 0.5},
    "contrastive_obrien2023": {"rule": "obrien2023", "alpha": 0.1, "beta": 0.5},
    "average": {"rule": "average", "alpha": 0.1, "beta": 0.5},
}
SPOKEN = {name: method for name, method in method_table(METHODS).items() if name != "speculative"}


def longest(tokens: int) -> int:
    """Tokens at which a text of so many on average is cut."""
    return 2 * tokens


class Text(NamedTuple):
    """The texts that one model wrote to a block's prompts, and what all models see on them."""

    writer: str
    names: list[str]
    """Prompt ids, sorted."""
    is_test_P: np.ndarray
    length_P: np.ndarray
    answer_P: np.ndarray
    """Tokens that ratios count."""
    given_P: np.ndarray
    """Tokens of the prompt."""
    was_cut_P: np.ndarray
    rows: dict
    """The columns that say which position a row is."""
    chance_N: np.ndarray
    """What decides where `random` and `perfect` call."""
    seen: dict
    """Model, `<reader>@<partner>` and `<method>/<pair>` to what a position's record holds."""


def imagine_texts(prompts: pl.DataFrame, number: int, tokens: int, seed: int) -> Iterator[Text]:
    """The texts of every model on a block's prompts; hardness and length belong to the prompt."""
    chance = make_chance(seed, number)
    trend_P = chance.gamma(4, tokens / 4, len(prompts))
    skew_P = chance.lognormal(np.log(2.6), 0.35, len(prompts))
    given_P = chance.integers(40, 120, len(prompts), dtype=np.int32)
    for position, writer in enumerate(MODELS):
        subset = make_chance(seed, number, position)
        wished_P = trend_P * subset.lognormal(0, 0.15, len(prompts))
        length_P = wished_P.astype(int).clip(8, longest(tokens))
        was_cut_P = wished_P >= longest(tokens)
        rambles_P = (subset.random(len(prompts)) < 0.3) & ~was_cut_P
        answer_P = length_P - np.where(rambles_P, subset.integers(1, 5, len(prompts)), 0)
        names, is_test_P = prompts["prompt_id"].to_list(), (prompts["split"] == "test").to_numpy()
        rows, seen = _imagine(subset, writer, names, length_P, answer_P, was_cut_P, skew_P)
        spelt_N = rows["prompt_id"].to_numpy(zero_copy_only=False)
        chance_N = routers.position_uniforms(seed, spelt_N, rows["pos"])
        about = names, is_test_P, length_P, answer_P, given_P, was_cut_P
        yield Text(writer, *about, rows, chance_N, seen)


def make_chance(*key: int) -> np.random.Generator:
    """Draws that depend on the key alone; the generator is numpy's fastest."""
    return np.random.Generator(np.random.SFC64(key))


def _imagine(chance, writer: str, names, length_P, answer_P, was_cut_P, skew_P) -> tuple[dict, dict]:
    """Rows and what is seen there, some positions at a time."""
    prompt_N = np.repeat(np.arange(len(names)), length_P)
    pos_N = np.arange(len(prompt_N)) - np.repeat(length_P.cumsum() - length_P, length_P)
    hardness_N = chance.random(len(prompt_N), dtype=np.float32) ** skew_P[prompt_N].astype(np.float32)
    is_end_N = (pos_N == length_P[prompt_N] - 1) & ~was_cut_P[prompt_N]
    parts = []
    for start in range(0, len(pos_N), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        parts.append(look(writer, *imagine_logits(chance, hardness_N[part], is_end_N[part])))
    seen = {key: {n: pa.concat_arrays([p[key][n] for p in parts]) for n in parts[0][key]} for key in parts[0]}
    rows = {
        "prompt_id": pa.array(names).take(pa.array(prompt_N)),
        "turn": np.ones(len(pos_N), np.int32),
        "pos": pos_N.astype(np.int32),
        "token_id": seen[writer]["top_id"],
        "in_answer": pos_N < answer_P[prompt_N],
        "from_template": np.zeros(len(pos_N), bool),
    }
    return rows, seen


def imagine_logits(
    chance: np.random.Generator, hardness_N: np.ndarray, is_end_N: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Candidate ids, every model's logits there, [N, C] each, and the last bits of the ids' columns, [N].

    Where a text ends, all models say so and none is in doubt.
    """
    ids_NC, mask_N = draw_ids(chance, is_end_N)
    lead_N1 = np.where(is_end_N, 12, 0.3 + 10 * (1 - hardness_N) ** 2).astype(np.float32)[:, None]
    slope_N1 = (0.35 + 2 * (1 - hardness_N)).astype(np.float32)[:, None]
    behind_NC = -(lead_N1 + slope_N1 * LOGS)
    behind_NC[:, 0] = 0
    drift_NC, logits = np.zeros_like(behind_NC), {}
    for name, kind in reversed(MODELS.items()):
        drift_NC += kind.noise * chance.standard_normal(drift_NC.shape, dtype=np.float32)
        slip_N = chance.random(len(drift_NC), dtype=np.float32) < kind.slips
        drift_NC[slip_N, 1] += lead_N1[slip_N, 0] + 4
        drift_NC[is_end_N] = 0
        level_N1 = chance.normal(21, 4, (len(drift_NC), 1)).astype(np.float32)
        logits[name] = round_bfloat16(kind.sharpness * behind_NC + drift_NC + level_N1)
    return ids_NC, logits, mask_N


def draw_ids(chance: np.random.Generator, is_end_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct ids, [N, C], as skewed as words are, and what a column is xored with to be an id's end.

    Candidates of one position end in different bits, so that none occurs twice.
    """
    shape = len(is_end_N), CANDIDATES
    drawn_NC = np.frombuffer(chance.bytes(2 * shape[0] * shape[1]), np.uint16).reshape(shape)
    mask_N = np.where(is_end_N, END % CANDIDATES, chance.integers(0, CANDIDATES, shape[0])).astype(np.int32)
    column_NC = np.arange(CANDIDATES, dtype=np.int32) ^ mask_N[:, None]
    ids_NC = RANKS[drawn_NC] * CANDIDATES + column_NC
    ids_NC[is_end_N, 0] = END
    return ids_NC, mask_N


def round_bfloat16(values_NC: np.ndarray) -> np.ndarray:
    """The array itself, changed to the nearest numbers that a bfloat16 model could say; ties go outward."""
    bits_NC = values_NC.view(np.uint32)
    bits_NC += 0x8000
    bits_NC &= 0xFFFF0000
    return values_NC


LOGS = np.log(np.arange(CANDIDATES).clip(1)).astype(np.float32)
RANKS = (np.exp(np.linspace(0, 1, 1 << 16) ** 2.5 * np.log(VOCABULARY // 64 - 1)) - 1).astype(np.int32)


class Order(NamedTuple):
    """A model's candidates from the most to the least likely, and the part of them that its list holds."""

    column_NC: np.ndarray
    logit_NC: np.ndarray
    kept_N: np.ndarray
    place_F: np.ndarray
    """Where in a flat [N, C] the list's entries lie."""
    offset_N: pa.Array


def look(writer: str, ids_NC: np.ndarray, logits: dict, mask_N: np.ndarray) -> dict[str, dict[str, pa.Array]]:
    """What every model sees of the positions of a text, and what partners say at its list."""
    orders = {name: rank(ids_NC, logits[name], mask_N) for name in MODELS}
    seen = {name: describe_positions(ids_NC, logits[name], orders[name]) for name in MODELS}
    for small, large in PAIRS.values():
        if writer in (small, large):
            seen[f"{small}@{large}"] = {"logits_at_partner_ids": gather(logits[small], orders[large])}
        if writer == small:
            seen[f"{large}@{small}"] = {"logits_at_partner_ids": gather(logits[large], orders[small])}
        if writer == large:
            listed_N8 = orders[large].column_NC[:, : DUMP["min_top_k"]]
            heads = (
                np.take_along_axis(array, listed_N8, 1) for array in (ids_NC, logits[large], logits[small])
            )
            seen[f"fused {small}-{large}"] = fuse_heads(*heads)
    return seen


def rank(ids_NC: np.ndarray, logits_NC: np.ndarray, mask_N: np.ndarray) -> Order:
    """Candidates by falling logit, of a tie the lowest id first, through one sort of whole numbers."""
    bits_NC = logits_NC.view(np.int32)
    rising_NC = np.where(bits_NC < 0, ~bits_NC, bits_NC | np.int32(-(1 << 31))).view(np.uint32)
    key_NC = (~rising_NC).astype(np.uint64) << np.uint64(18) | ids_NC.astype(np.uint64)
    key_NC.sort(axis=1)
    column_NC = (key_NC.astype(np.int64) & (CANDIDATES - 1)) ^ mask_N[:, None]
    sorted_NC = np.take_along_axis(logits_NC, column_NC, 1)
    kept_N = (sorted_NC >= sorted_NC[:, :1] - DUMP["nats_below_top"]).sum(axis=1).clip(DUMP["min_top_k"])
    held_NC = np.arange(CANDIDATES) < kept_N[:, None]
    place_F = (column_NC + np.arange(len(ids_NC))[:, None] * CANDIDATES)[held_NC]
    offset_N = pa.array(np.concatenate([[0], kept_N.cumsum()]).astype(np.int32))
    return Order(column_NC, sorted_NC, kept_N, place_F, offset_N)


def gather(logits_NC: np.ndarray, order: Order) -> pa.Array:
    """Logits at the entries of a list."""
    return pa.ListArray.from_arrays(order.offset_N, pa.array(logits_NC.ravel()[order.place_F]))


def describe_positions(ids_NC: np.ndarray, logits_NC: np.ndarray, order: Order) -> dict[str, pa.Array]:
    """The columns of a record, beside them the top id and the lead in probability that routers see.

    Ids that are no candidates lie just below the last one and weigh as much as a few like it.
    """
    max_N, rows_N = order.logit_NC[:, 0], np.arange(len(ids_NC))
    beyond_N = round_bfloat16(order.logit_NC[:, -1] - np.float32(0.25))
    next_N = np.where(
        order.kept_N < CANDIDATES, order.logit_NC[rows_N, order.kept_N.clip(max=CANDIDATES - 1)], beyond_N
    )
    below_NC = logits_NC - max_N[:, None]
    weight_NC, rest_N = np.exp(below_NC), 8 * np.exp(beyond_N - max_N)
    total_N = weight_NC.sum(axis=1) + rest_N
    spread_N = np.einsum("nc,nc->n", weight_NC, below_NC) + rest_N * (beyond_N - max_N - 2)
    scalars = {
        "max_logit": max_N,
        "logsumexp": max_N + np.log(total_N),
        "entropy": np.log(total_N) - spread_N / total_N,
        "min_logit": round_bfloat16(-14 - 0.1 * max_N),
        "max_outside_logit": next_N,
        "top_id": ids_NC[rows_N, order.column_NC[:, 0]],
        "max_probability": 1 / total_N,
        "margin": (1 - np.exp(order.logit_NC[:, 1] - max_N)) / total_N,
    }
    lists = {"top_ids": gather(ids_NC, order), "top_logits": gather(logits_NC, order)}
    return lists | {name: pa.array(value_N) for name, value_N in scalars.items()}


def fuse_heads(ids_NK: np.ndarray, large_NK: np.ndarray, small_NK: np.ndarray) -> dict[str, pa.Array]:
    """Every method's token among the first of the large model's list."""
    l, s, fused = large_NK.astype(np.float64), small_NK.astype(np.float64), {}
    for name, method in SPOKEN.items():
        score_NK = np.where(
            fusion.plausibility_mask(method, l, l[:, :1]), fusion.score(method, l, s, None), -np.inf
        )
        fused[name] = pa.array(np.take_along_axis(ids_NK, score_NK.argmax(axis=1)[:, None], 1)[:, 0])
    return fused


def text_rows(text: Text, pieces: pa.Array) -> dict:
    """The texts themselves."""
    return {
        "prompt_id": text.names,
        "turn": np.ones(len(text.names), np.int32),
        "text": spell(text.rows["token_id"], text.length_P, pieces),
        "tokens": text.length_P,
        "answer_tokens": text.answer_P,
        "tokens_after_stop": np.zeros(len(text.names), np.int32),
        "finish_reason": np.where(text.was_cut_P, "length", "eos"),
        "prompt_tokens": text.given_P,
        "prompt_hash": [f"{given:016x}" for given in text.given_P],
    }


def spell(token_N: pa.Array, length_P: np.ndarray, pieces: pa.Array) -> pa.Array:
    """The ids of texts as strings, without end tokens."""
    offset_P = pa.array(np.concatenate([[0], length_P.cumsum()]).astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(offset_P, pieces.take(token_N)), "")
