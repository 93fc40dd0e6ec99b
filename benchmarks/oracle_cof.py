"""Oracle CoF of all six pairs of four models, against FS-GEN's procedure for each pair."""

from itertools import combinations
from pathlib import Path

import one_thread  # noqa: F401 - before torch
import torch
import worlds
from sidebyside import Case, Row, alternate, save

from fsgen.collaboration import fuse
from fsgen.config.schema import Settings
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.models import loaded_model, tokenization
from fsgen.tables import lake, parquet

ROW = Row(
    what="oracle CoF of all 6 pairs of 4 models",
    against="FS-GEN: per pair a joint loop token by token, batch 1, and a loop of the small model alone",
    target=8,
    definition="CPU time of FS-GEN's procedure (per pair: large and small step together along the large "
    "model's text, argmaxes compared; then the small model writes alone) over CPU time of every stage up to "
    "the counts: dump_solo of 4 models, dump_large, dump_small and fuse of 6 pairs, one SQL query. The "
    "stages also leave records of both texts, which the loops do not. Mismatch and token counts equal.",
)
FAMILY = ["base-23k", "base-87k", "base-192k", "base-451k"]
LIMIT = 24


def main() -> None:
    """Measure both procedures on arith and compare their counts."""
    pairs = {f"{s}-{l}": (s, l) for s, l in combinations(FAMILY, 2)}
    with worlds.on_arith(FAMILY, LIMIT, pairs=pairs) as loaded, worlds.in_memory(loaded) as held:
        ours, theirs, counted, looped = alternate(
            lambda: run_stages(loaded),
            lambda: {name: run_pair(loaded, held[s], held[l]) for name, (s, l) in pairs.items()},
            lambda: worlds.forget(*(f"data/{out}" for out in ("dumps", "teacher_forced", "fused"))),
        )
    assert counted == looped, f"counts differ: {counted} {looped}"
    sizes = {"pairs": len(pairs), "prompts": LIMIT, "tokens": sum(tokens for _, tokens in counted.values())}
    counts = {name: {"mismatches": m, "tokens": t} for name, (m, t) in counted.items()}
    save(Path(__file__).stem, ROW, {"embedded family": Case(ours, theirs, sizes)}, beside=counts)


def run_stages(loaded: Settings) -> dict[str, tuple[int, int]]:
    """Mismatches and tokens of every pair, from the pipeline's stages."""
    for name in loaded.models:
        dump_solo.dump_solo(loaded, name)
    for pair in loaded.pairs:
        for stage in (dump_teacher_forced.dump_large, dump_teacher_forced.dump_small, fuse.fuse_pair):
            stage(loaded, pair)
    sql = "select pair, sum(mismatch::int), count(*) from fused_tokens where writer = 'large' group by pair"
    return {pair: (int(m), tokens) for pair, m, tokens in lake.connect().execute(sql).fetchall()}


def run_pair(
    loaded: Settings, small: loaded_model.LoadedModel, large: loaded_model.LoadedModel
) -> tuple[int, int]:
    """Mismatches and tokens of one pair by FS-GEN's loops, its run without a large model included."""
    prompts = parquet.read("data/prompts/toy.parquet")
    limit, mismatches, tokens = loaded.datasets["toy"].max_new_tokens, 0, 0
    for prompt in tokenization.encode(large.name, large.prompt_format, large.tokenizer, prompts):
        message = write_together(large, small, prompt, limit)
        mismatches += sum(l != s for l, s in message)
        tokens += len(message)
        write_together(small, None, prompt, limit)
    return mismatches, tokens


@torch.inference_mode()
def write_together(
    writer: loaded_model.LoadedModel, beside: loaded_model.LoadedModel | None, prompt: list[int], limit: int
) -> list[tuple[int, int]]:
    """Tokens of `writer` along its own text, and of the model beside it, one step of each a token."""
    fed, caches, message = torch.tensor([prompt]), [None, None], []
    while not message or (message[-1][0] not in writer.stop_ids and len(message) < limit):
        tokens = []
        for i, held in enumerate(m for m in (writer, beside) if m):
            out = held.network(input_ids=fed, past_key_values=caches[i], use_cache=True, logits_to_keep=1)
            caches[i] = out.past_key_values
            tokens.append(int(out.logits[0, -1, : held.vocabulary].argmax()))
        message.append((tokens[0], tokens[-1]))
        fed = torch.tensor([[tokens[0]]])
    return message


if __name__ == "__main__":
    main()
