"""Writing alone with a record of every token, against transformers' own greedy `generate`."""

from pathlib import Path

import one_thread  # noqa: F401 - before torch
import torch
import worlds
from sidebyside import Case, Row, alternate, save

from fsgen.config.schema import Settings
from fsgen.decoding import dump_solo
from fsgen.models import loaded_model, tokenization
from fsgen.tables import parquet

ROW = Row(
    what="writing alone, ragged lengths, records and Parquet included",
    against="model.generate(do_sample=False), same prompts, batch, padding and stops",
    target=1.0,
    definition="CPU time of generate over CPU time of the whole stage dump_solo. generate keeps tokens "
    "alone, the stage a record of every token too. Tokens equal.",
)
ARITH_LIMIT = 128
PROMPTS, NEW_TOKENS = [12, 31, 20, 7] * 4, 48


def main() -> None:
    """Measure texts that end at different places and texts that all run to their limit."""
    cases = {}
    with worlds.on_arith(["base-451k"], ARITH_LIMIT) as loaded:
        cases["embedded 451k"] = compare(loaded, "base-451k")
    with worlds.on_random({"writer": worlds.FORTY_MILLION}, PROMPTS, NEW_TOKENS) as loaded:
        cases["qwen2 40m, 152k ids"] = compare(loaded, "writer")
    save(Path(__file__).stem, ROW, cases)


def compare(loaded: Settings, name: str) -> Case:
    """The model answers every prompt, as a stage and with `generate`."""
    with worlds.in_memory(loaded) as held:
        ours, theirs, _, generated = alternate(
            lambda: dump_solo.dump_solo(loaded, name),
            lambda: generate(loaded, held[name]),
            lambda: worlds.forget("data/dumps"),
        )
        texts = [ids for _, ids in worlds.read_texts(name, held[name])]
        assert texts == generated, "generate wrote other tokens"
    lengths = [len(ids) for ids in texts]
    sizes = {"texts": len(texts), "tokens": sum(lengths), "shortest": min(lengths), "longest": max(lengths)}
    sizes |= {"rows": loaded.compute.batch_size, "vocabulary": held[name].vocabulary}
    return Case(ours, theirs, sizes)


@torch.inference_mode()
def generate(loaded: Settings, held: loaded_model.LoadedModel) -> list[list[int]]:
    """What `generate` writes for every prompt, by prompt, in the stage's batches."""
    prompts = parquet.read("data/prompts/toy.parquet")
    encoded = tokenization.encode(held.name, held.prompt_format, held.tokenizer, prompts)
    step, limit = (
        min(loaded.compute.batch_size, loaded.dump.prompts_per_shard),
        loaded.datasets["toy"].max_new_tokens,
    )
    texts = []
    for start in range(0, len(encoded), step):
        texts += generate_batch(held, encoded[start : start + step], limit)
    order = prompts["prompt_id"].arg_sort().to_list()
    return [texts[i] for i in order]


def generate_batch(held: loaded_model.LoadedModel, prompts: list[list[int]], limit: int) -> list[list[int]]:
    """Texts of one batch, padded on the left, each up to and with its end token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    stops = list(held.stop_ids)
    written = held.network.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=stops,
        pad_token_id=stops[0],
    )[:, width:].tolist()
    return [row[: next((i + 1 for i, t in enumerate(row) if t in stops), limit)] for row in written]


if __name__ == "__main__":
    main()
