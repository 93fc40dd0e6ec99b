"""A rollout of eight budgets of one router, against one rollout for each of them."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import one_thread  # noqa: F401 - before torch
import polars as pl
import torch
import worlds
from sidebyside import Case, Row, alternate, save

from fsgen import checkpoints, decoding, models, reading, rollout, settings, simulation, store

BUDGETS = (2, 5, 10, 15, 20, 30, 40, 60)
ROW = Row(
    what="rollout of 8 thresholds of one router, model steps",
    against="one run per policy",
    target=4,
    definition="Generated positions that the models process in eight rollouts of one policy each, over those "
    "in one rollout of all eight, prompts left out on both sides; counted at the model, padding left out. "
    "Tokens of every text equal.",
)
SMALL, LARGE, LIMIT = "base-87k", "base-451k", 64
POLICIES = [f"oracle+entropy@{budget}" for budget in BUDGETS]
CHANGES = {"routers": {"always": {}, "entropy": {}}, "policies": POLICIES, "pairs": {"duo": (SMALL, LARGE)}}


def main() -> None:
    """Roll out together and apart, counting what the models process."""
    with worlds.on_arith([SMALL, LARGE], LIMIT, **CHANGES) as loaded, worlds.in_memory(loaded):
        prepare(loaded)
        counted: dict[str, list[int]] = {"together": [], "apart": []}
        ours, theirs, together, apart = alternate(
            lambda: count_rollout(loaded, POLICIES, counted["together"]),
            lambda: roll_apart(loaded, counted["apart"]),
            worlds.forget,
        )
    assert together.equals(apart), "texts differ"
    sizes = {"policies": len(POLICIES), "texts": together.select("policy", "prompt_id").n_unique()}
    sizes |= {"tokens": len(together)}
    case = Case(counted["together"], counted["apart"], sizes, "positions through a model")
    cpu = {"ratio of CPU seconds": Case(ours, theirs, {}).told()["ratio"]}
    save(Path(__file__).stem, ROW, {"embedded family": case}, beside=cpu)


def prepare(loaded: settings.Settings) -> None:
    """Everything that a rollout rests on: dumps, fused tokens, thresholds."""
    for name in (SMALL, LARGE):
        decoding.dump_solo(loaded, name)
    for stage in (reading.dump_large, reading.dump_small, simulation.fuse_pair, simulation.route_pair):
        stage(loaded, "duo")


def roll_apart(loaded: settings.Settings, counted: list[int]) -> pl.DataFrame:
    """One rollout a policy; appends the sum of their positions to `counted`."""
    each: list[int] = []
    frames = [count_rollout(loaded, [name], each) for name in POLICIES]
    counted.append(sum(each))
    return pl.concat(frames).sort("policy", "prompt_id", "pos")


def count_rollout(loaded: settings.Settings, names: list[str], counted: list[int]) -> pl.DataFrame:
    """Tokens of one rollout of these policies alone; appends its generated positions to `counted`."""
    # params always add +always of every method, which would ride along in each of the eight runs
    alone = replace(loaded, policies=tuple(policy for policy in loaded.policies if policy.name in names))
    worlds.forget("data/rollouts")
    prompts = checkpoints.encode(
        LARGE,
        "plain",
        checkpoints.load_tokenizer(LARGE, loaded.models[LARGE]),
        store.read("data/prompts/toy.parquet"),
    )
    with counting(prompts) as positions:
        rollout.roll_out(alone, "duo")
    counted.append(sum(positions))
    rows = store.read("data/rollouts/duo/toy/tokens-*.parquet", ["policy", "prompt_id", "pos", "token_id"])
    return rows.sort("policy", "prompt_id", "pos")


@contextlib.contextmanager
def counting(prompts: list[list[int]]) -> Iterator[list[int]]:
    """While it lasts, every call of a model notes the generated positions that it processes."""
    whole, positions = models.Loaded.hidden, []

    def hidden(self, ids_BL: torch.Tensor, **where) -> torch.Tensor:
        rows = zip(ids_BL.tolist(), where["position_ids"].expand_as(ids_BL).tolist(), strict=True)
        positions.append(sum(count_generated(ids, places, prompts) for ids, places in rows))
        return whole(self, ids_BL, **where)

    with mock.patch.object(models.Loaded, "hidden", hidden):
        yield positions


def count_generated(ids: list[int], places: list[int], prompts: list[list[int]]) -> int:
    """Positions of one row that are no padding, which repeats a position, and no prompt."""
    count = len(set(places))
    if min(places) > 0:
        return count
    begins = [p for p in prompts if p in (ids[: len(p)], ids[len(ids) - count :][: len(p)])]
    return count - max(map(len, begins))  # a text that begins with none of the prompts is an error


if __name__ == "__main__":
    main()
