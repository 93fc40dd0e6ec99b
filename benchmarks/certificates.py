"""What depth and length of the stored lists prove, as shares of the positions of the large model's text.

python benchmarks/certificates.py PROJECT PAIR [PAIR ...]   (a folder in which dump_solo has run)

A masked rule (alpha 0.1) is proven where no id outside the list is within -ln alpha nats of the top, proxy
(alpha 1) where no outsider's logit plus the largest gain f - s outside reaches the winner. `reread` is the
share that a second look of the large model at the m largest gains outside the list would leave proven.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
import sidebyside
import torch

from fsgen.collaboration import fusion
from fsgen.config.load import load_settings
from fsgen.config.policies import Method
from fsgen.config.schema import DumpConfig, Settings
from fsgen.models import loaded_model, loading, records, tokenization
from fsgen.tables import parquet

GRID = [
    DumpConfig(nats_below_top=depth, min_top_k=min_top_k, max_top_k=max_top_k, prompts_per_shard=1)
    for min_top_k in (2, 8)
    for max_top_k in (16, 32, 64, 256)
    for depth in (2.5, 3.0, 6.0, 10.0, 15.0)
]
MASKED = Method(rule="li2022", parameters={"alpha": 0.1, "tau": 0.5})
PROXY = Method(rule="proxy", parameters={"alpha": 1.0})
REREAD = (16, 128)
TEXTS = 6


def main(project: str, *pairs: str) -> None:
    """Write results/certificates/<pair>.json."""
    (sidebyside.RESULTS / "certificates").mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(project):
        loaded = load_settings()
        reported = {pair: measure(loaded, pair) for pair in pairs}
    for pair, result in reported.items():
        sidebyside.write_json(f"certificates/{pair}", {"definition": __doc__.split("\n\n")[2], **result})


def measure(loaded: Settings, pair: str) -> dict:
    """Shares over the first texts of the first dataset."""
    members = loaded.pairs[pair].roles()
    held = {role: loading.load_model(loaded, name) for role, name in members.items()}
    parts = [part for text in texts_of(loaded, pair, held["large"]) for part in shares(held, *text)]
    rows = []
    for cell, dump in enumerate(GRID):
        cells = [part[cell] for part in parts]
        means = {name: float(np.concatenate([c[name] for c in cells]).mean()) for name in cells[0]}
        rows.append(
            {"min_top_k": dump.min_top_k, "max_top_k": dump.max_top_k, "depth": dump.nats_below_top, **means}
        )
    return {"texts": TEXTS, "positions": sum(len(part[0]["masked"]) for part in parts), "rows": rows}


def texts_of(
    loaded: Settings, pair: str, large: loaded_model.LoadedModel
) -> list[tuple[list[int], list[int]]]:
    """Prompt and ids of the large model's own texts."""
    dataset = next(iter(loaded.datasets))
    prompts = parquet.read(f"data/prompts/{dataset}.parquet").sort("order").head(TEXTS)
    encoded = tokenization.encode(large.name, large.prompt_format, large.tokenizer, prompts)
    rows = parquet.read(
        f"data/dumps/{large.name}/{dataset}/tokens-*.parquet", ["prompt_id", "pos", "token_id"]
    )
    written = dict(rows.sort("pos").group_by("prompt_id").agg("token_id").iter_rows())
    return [(ids, written[name]) for name, ids in zip(prompts["prompt_id"], encoded, strict=True)]


@torch.inference_mode()
def shares(held: dict[str, loaded_model.LoadedModel], prompt: list[int], ids: list[int]) -> list[list[dict]]:
    """For each stretch of a text, every cell of the grid with what is proven at its positions."""
    whole = torch.tensor([(prompt + ids)[:-1]])
    hidden = {
        role: model.hidden_states(whole, use_cache=False)[0, len(prompt) - 1 :]
        for role, model in held.items()
    }
    parts = []
    for span in held["large"].row_chunks(len(ids)):
        logits = {role: model.logits(hidden[role][span]) for role, model in held.items()}
        parts.append([prove(logits, dump) for dump in GRID])
    return parts


def prove(logits: dict[str, torch.Tensor], dump: DumpConfig) -> dict[str, np.ndarray]:
    """What one kind of list proves at every position, [N] each."""
    large, small = logits["large"], logits["small"]
    ids, values, outside = (x.numpy() for x in records.top_list(large, dump))
    result = {"length": (ids >= 0).sum(axis=1)}
    tuned = logits.get("tuned")
    gain_N = None if tuned is None else records.largest_gain(tuned, small, ids)
    at_small, at_tuned = (None if x is None else records.gather(x, ids) for x in (small, tuned))
    lists = fusion.TopLists(ids, values, at_small, at_tuned, gain_N, outside)
    result["masked"] = fusion.fuse(MASKED, lists)[1]
    if tuned is not None:
        result["proxy"] = fusion.fuse(PROXY, lists)[1]
        result |= {f"reread_{m}": prove_again(logits, ids, outside, m) for m in REREAD}
    return result


def prove_again(logits: dict[str, torch.Tensor], ids: np.ndarray, outside: np.ndarray, m: int) -> np.ndarray:
    """Proxy, once the large model has been gathered at the m largest gains outside its list."""
    gain_NV = logits["tuned"] - logits["small"]
    score_NV = logits["large"] + gain_NV
    inside = torch.from_numpy(ids).long()
    rows_N1 = torch.arange(len(gain_NV))[:, None].expand_as(inside)
    listed = score_NV.gather(1, inside.clamp_min(0)).masked_fill(inside < 0, -torch.inf).amax(-1)
    gain_NV[rows_N1[inside >= 0], inside[inside >= 0]] = -torch.inf
    gains = gain_NV.topk(min(m + 1, gain_NV.shape[1]))
    best_N = torch.maximum(listed, score_NV.gather(1, gains.indices[:, :m]).amax(-1))
    return (best_N > torch.from_numpy(outside) + gains.values[:, -1]).numpy()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {Path(__file__).name} PROJECT PAIR [PAIR ...]")
    main(*sys.argv[1:])
