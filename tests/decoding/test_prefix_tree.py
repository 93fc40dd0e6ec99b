"""The worked example of prefix_tree.py: who reads which tokens, step by step."""

from types import SimpleNamespace

import numpy as np
import pytest

from fsgen.config.policies import Method, Policy
from fsgen.decoding import texts
from fsgen.decoding.rollout.prefix_tree import PrefixTree
from fsgen.decoding.rollout.runs import PendingText, PolicyRun
from fsgen.decoding.texts import TokenSequence
from fsgen.execution.console import Bar
from fsgen.models import loading
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.tables import parquet
from tests.conftest import describe_all, random_world


class CallsAt:
    """A router that calls in one step of a text, and never if that is None."""

    needs_fused_token = False

    def __init__(self, step: int | None):
        self.step, self.steps = step, 0

    def decide(self, record, uniform_N, mismatch_N):
        self.steps += 1
        return np.full(len(mismatch_N), self.steps - 1 == self.step)


@pytest.fixture
def duo(tiny_checkpoints, tmp_path, monkeypatch) -> SimpleNamespace:
    """The small and the large model in memory, and what ends their texts."""
    monkeypatch.chdir(tmp_path)
    settings = random_world(tiny_checkpoints)
    describe_all(settings)
    loaded = {role: loading.load_model(settings, role) for role in ("small", "large")}
    stop_rule = texts.stop_rule(loaded["large"], parquet.read("data/prompts/toy.parquet"), 4)
    return SimpleNamespace(settings=settings, loaded=loaded, stop_rule=stop_rule)


def grow(duo: SimpleNamespace, prompt: list[int], calls: dict[str, int | None]):
    """The texts of runs that call at the given steps, and every read of a model in order."""
    method = Method(rule="li2022", parameters={"alpha": 0.1, "tau": 0.5})
    runs = [
        PolicyRun(Policy(name=name, method="contrastive", router="r"), method, CallsAt(step))
        for name, step in calls.items()
    ]
    tree = PrefixTree(duo.loaded, {"prompt": prompt}, runs, duo.stop_rule, duo.settings, rows=8)
    reads, append = [], RaggedKVCache.append

    def note(cache, tokens, rows=None):
        role = next(role for role, mine in tree.caches.items() if mine is cache)
        reads.append((role, tokens))
        return append(cache, tokens, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RaggedKVCache, "append", note)
        result = tree.run(
            [PendingText(run, 0, TokenSequence([])) for run in range(len(runs))], Bar(disable=True)
        )
    written = {runs[text.run].name: text.text.ids for text in result.finished}
    return written, reads


def test_two_policies_share_a_branch_until_a_call_splits_it(duo):
    """Small reads "q" and "x" once for both, large reads "q x" in one pass when A calls."""
    prompts = ([p, q] for p in range(20) for q in range(20))
    for p, q in prompts:
        written, reads = grow(duo, [p, q], {"A": 1, "B": None})
        if p != q and min(map(len, written.values())) > 2 and written["A"][1] != written["B"][1]:
            break

    (x, y, *_), (_, z, *_) = written["A"], written["B"]
    assert written["B"][0] == x
    assert reads[:6] == [
        ("small", [[p]]),  # step 0: the prompt, but for its last token
        ("large", [[p]]),
        ("small", [[q]]),  # step 1: one branch for both
        ("small", [[x]]),  # step 2
        ("large", [[q, x]]),  # A calls; both nodes are fused
        ("small", [[y], [z]]),  # step 3: the branch has split
    ]
