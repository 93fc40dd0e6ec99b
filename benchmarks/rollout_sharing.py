"""A rollout of eight budgets of one router, against a run of each policy by itself."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import one_thread  # noqa: F401 - before torch
import torch
import worlds
from sidebyside import Case, Row, alternate, save
from transformers import DynamicCache

from fsgen.collaboration import fuse, route
from fsgen.collaboration.calibration import read_calibration
from fsgen.config.schema import Settings
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.decoding.rollout import rollout
from fsgen.models import loaded_model, tokenization
from fsgen.tables import parquet

BUDGETS = (2, 5, 10, 15, 20, 30, 40, 60)
ROW = Row(
    what="rollout of 8 thresholds of one router, model steps",
    against="one run per policy",
    target=4,
    definition="Generated positions of both models, prompts left out on both sides: in eight runs, "
    "each of one policy, batch 1 with caches, in which the small model steps at every token and the "
    "large one catches up where it is called; over those in one rollout of all, what the large model reads "
    "unasked included, padding left out. Tokens of every text equal.",
)
SMALL, LARGE, LIMIT, LONGEST = "base-87k", "base-451k", 32, 96
POLICIES = [f"oracle+entropy@{budget}" for budget in BUDGETS]
CHANGES = {"routers": {"always": {}, "entropy": {}}, "policies": POLICIES, "pairs": {"duo": (SMALL, LARGE)}}
Texts = dict[tuple[str, str], list[int]]


def main() -> None:
    """Roll out together and apart, counting what the models process."""
    with worlds.on_arith([SMALL, LARGE], LIMIT, **CHANGES) as loaded, worlds.in_memory(loaded) as held:
        prepare(loaded)
        prompts = spell(loaded)
        calibrated = read_calibration("duo", "toy").routers
        cuts = {name: router.threshold for name, router in calibrated.items()}
        counted: dict[str, list[int]] = {"together": [], "apart": []}
        ours, theirs, together, apart = alternate(
            lambda: roll_together(loaded, prompts, counted["together"]),
            lambda: roll_apart(held[SMALL], held[LARGE], prompts, cuts, counted["apart"]),
            worlds.forget,
        )
    assert together == apart, "texts differ"
    sizes = {"policies": len(POLICIES), "texts": len(together), "tokens": sum(map(len, together.values()))}
    case = Case(counted["together"], counted["apart"], sizes, "positions through a model")
    cpu = {"ratio of CPU seconds": Case(ours, theirs, {}).reported()["ratio"]}
    save(Path(__file__).stem, ROW, {"embedded family": case}, beside=cpu)


def prepare(loaded: Settings) -> None:
    """Everything that a rollout rests on: dumps, fused tokens, thresholds."""
    for name in (SMALL, LARGE):
        dump_solo.dump_solo(loaded, name)
    for stage in (
        dump_teacher_forced.dump_large,
        dump_teacher_forced.dump_small,
        fuse.fuse_pair,
        route.route_pair,
    ):
        stage(loaded, "duo")


def spell(loaded: Settings) -> dict[str, list[int]]:
    """Ids of every test prompt."""
    prompts = parquet.read("data/prompts/toy.parquet").filter(split="test")
    tokenizer = tokenization.load_tokenizer(LARGE, loaded.models[LARGE])
    return dict(
        zip(prompts["prompt_id"], tokenization.encode(LARGE, "plain", tokenizer, prompts), strict=True)
    )


class Walker:
    """One model at the end of one text."""

    def __init__(self, held: loaded_model.LoadedModel, prompt: list[int]):
        self.held, self.cache, self.steps = held, DynamicCache(), 0
        self.prompt = len(prompt) - 1

    def say(self, ids: list[int]) -> torch.Tensor:
        """Logits after `ids`, of which only what the cache lacks is run."""
        new = ids[self.cache.get_seq_length() :]
        self.steps += len(ids) - max(self.cache.get_seq_length(), self.prompt)
        out = self.held.network(input_ids=torch.tensor([new]), past_key_values=self.cache, use_cache=True)
        return out.logits[0, -1, : self.held.vocabulary]


@torch.inference_mode()
def roll_apart(small, large, prompts: dict[str, list[int]], cuts: dict, counted: list[int]) -> Texts:
    """One run a policy and prompt; appends the sum of their positions to `counted`."""
    texts, steps = {}, 0
    for policy in POLICIES:
        for name, prompt in prompts.items():
            walkers = Walker(small, prompt), Walker(large, prompt)
            texts[policy, name] = run_alone(*walkers, prompt, cuts[policy])
            steps += sum(walker.steps for walker in walkers)
    counted.append(steps)
    return texts


def run_alone(small: Walker, large: Walker, prompt: list[int], cut: float) -> list[int]:
    """The small model writes; where its entropy exceeds the cut, the large one says the token."""
    text: list[int] = []
    while len(text) < LONGEST and (not text or text[-1] not in small.held.stop_ids):
        logits = small.say(prompt + text)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        chosen = large.say(prompt + text) if entropy > cut else logits
        text.append(int(chosen.argmax()))
    return text


def roll_together(loaded: Settings, prompts: dict[str, list[int]], counted: list[int]) -> Texts:
    """Texts of one rollout; appends its generated positions to `counted`."""
    worlds.forget("data/rollouts")
    with counting([*prompts.values()]) as positions:
        rollout.rollout(loaded, "duo")
    counted.append(sum(positions))
    rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet", ["policy", "prompt_id", "pos", "token_id"])
    texts = rows.sort("pos").group_by("policy", "prompt_id").agg("token_id")
    return {(policy, name): ids for policy, name, ids in texts.iter_rows() if policy in POLICIES}


@contextlib.contextmanager
def counting(prompts: list[list[int]]) -> Iterator[list[int]]:
    """While it lasts, every call of a model notes the generated positions that it processes."""
    whole, positions = loaded_model.LoadedModel.hidden_states, []

    def hidden(self, ids_BL: torch.Tensor, **where) -> torch.Tensor:
        rows = zip(ids_BL.tolist(), where["position_ids"].expand_as(ids_BL).tolist(), strict=True)
        positions.append(sum(count_generated(ids, places, prompts) for ids, places in rows))
        return whole(self, ids_BL, **where)

    with mock.patch.object(loaded_model.LoadedModel, "hidden_states", hidden):
        yield positions


def count_generated(ids: list[int], places: list[int], prompts: list[list[int]]) -> int:
    """Positions of one row that are no padding, which repeats a position, and no prompt."""
    count = len(set(places))
    if min(places) > 0:
        return count
    begins = [p[:-1] for p in prompts if p[:-1] == ids[: len(p) - 1]]
    return count - max(map(len, begins))  # a text that begins with none of the prompts is an error


if __name__ == "__main__":
    main()
