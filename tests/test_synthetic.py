"""The synthetic lake: what stages assert holds, lists are what a dump's are, a seed is all it depends on."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from fsgen.collaboration import fuse
from fsgen.config.load import load_settings
from fsgen.tables import parquet
from fsgen.tables.parquet import KEY
from fsgen.tables.schemas.dumps import READS, ROLLOUT_TEXTS, ROLLOUT_TOKENS, STEPS, TEXTS, TOKENS

with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(Path(__file__).parent.parent / "benchmarks"), *sys.path])
    import synthetic
PROMPTS, BLOCK = 20, 8
PAIRS = sorted(synthetic.PAIRS)
ALL = {
    "dumps/*/sums/tokens": TOKENS,
    "dumps/*/sums/texts": TEXTS,
    "teacher_forced/large/*/sums/reads": READS,
    "teacher_forced/small/*/sums/reads": READS,
    "rollouts/*/sums/tokens": ROLLOUT_TOKENS,
    "rollouts/*/sums/texts": ROLLOUT_TEXTS,
    "rollouts/*/sums/steps": STEPS,
}


def columns_of(schema) -> list[tuple[str, str]]:
    """Names and types; Parquet calls a list's items elements."""
    return [(field.name, str(field.type).replace("element", "item")) for field in schema]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = tmp_path_factory.mktemp("lake")
    synthetic.write_lake(made, PROMPTS, tokens=60, seed=3, block=BLOCK)
    return made


@pytest.fixture
def data(home, monkeypatch):
    monkeypatch.chdir(home)
    return home / "data"


@pytest.mark.parametrize("pattern", ALL)
def test_shards_have_the_pipelines_schemas(data, pattern):
    """Column by column with their sentences, in as many shards as the pipeline cuts."""
    paths = sorted(data.glob(f"{pattern}-*.parquet"))
    assert paths
    assert all(columns_of(pq.read_schema(path)) == columns_of(ALL[pattern]) for path in paths)
    tests = len(parquet.read("data/prompts/sums.parquet").filter(split="test"))
    prompts = tests if "rollouts" in pattern else PROMPTS
    assert {path.stem[-4:] for path in paths} == {f"{i:04d}" for i in range(-(-prompts // BLOCK))}


@pytest.mark.parametrize("model", synthetic.MODELS)
def test_a_record_is_one_of_a_distribution(data, model):
    """Lists fall and hold what is near the top; scalars are those of a distribution that goes on below."""
    rows = parquet.read(f"data/dumps/{model}/sums/tokens-*.parquet")
    top_NK, ids_NK = parquet.pad_lists(rows["top_logits"], -np.inf), parquet.pad_lists(rows["top_ids"], -1)
    length_N = rows["top_ids"].list.len().to_numpy()
    assert length_N.min() == 8
    assert length_N.max() <= 64
    assert 9 < length_N.mean() < 18
    assert (np.diff(top_NK[:, :8], axis=1) <= 0).all()
    is_tied_NK = np.diff(top_NK[:, :8], axis=1) == 0
    assert is_tied_NK.any()
    assert (np.diff(ids_NK[:, :8], axis=1)[is_tied_NK] > 0).all()
    assert (rows["top_ids"].list.n_unique() == rows["top_ids"].list.len()).all()
    assert (rows["max_logit"].to_numpy() == top_NK[:, 0]).all()
    last_N = top_NK[np.arange(len(rows)), length_N - 1]
    assert (rows["max_outside_logit"].to_numpy() <= last_N).all()
    assert (rows["min_logit"].to_numpy() < rows["max_outside_logit"].to_numpy()).all()
    listed_N = np.log(np.exp(top_NK - top_NK[:, :1]).sum(axis=1)) + top_NK[:, 0]
    assert (rows["logsumexp"].to_numpy() >= listed_N - 1e-4).all()
    assert rows["entropy"].min() >= 0
    assert np.corrcoef(rows["entropy"].to_numpy(), length_N)[0, 1] > 0.6


def test_texts_are_those_of_their_rows(data):
    """A token is its writer's top, counts are those of the rows, only the end ends a text."""
    for model in synthetic.MODELS:
        rows = parquet.read(f"data/dumps/{model}/sums/tokens-*.parquet")
        texts = parquet.read(f"data/dumps/{model}/sums/texts-*.parquet").sort("prompt_id")
        assert rows["token_id"].equals(rows["top_ids"].list.first(), check_names=False)
        counted = rows.group_by("prompt_id").agg(
            tokens=pl.len(), counted=pl.sum("in_answer"), last=pl.last("token_id")
        )
        counted = counted.sort("prompt_id")
        assert counted["tokens"].to_list() == texts["tokens"].to_list()
        assert counted["counted"].to_list() == texts["answer_tokens"].to_list()
        assert ((counted["last"] == synthetic.END) == (texts["finish_reason"] == "eos")).all()
        assert texts["tokens"].n_unique() > 5


@pytest.mark.parametrize("pair", PAIRS)
def test_partners_are_asked_at_each_others_lists(data, pair):
    """On both texts, of the length of the partner's list, and equal to its own logits where lists meet."""
    small, large = synthetic.PAIRS[pair]
    subset = {m: parquet.read(f"data/dumps/{m}/sums/tokens-*.parquet").sort(KEY) for m in (small, large)}
    by_large = parquet.read(f"data/teacher_forced/large/{pair}/sums/reads-*.parquet").sort(KEY)
    by_small = parquet.read(f"data/teacher_forced/small/{pair}/sums/reads-*.parquet").sort(KEY)
    met = [
        (by_large, subset[small]),
        (by_small.filter(writer="small"), by_large),
        (by_small.filter(writer="large"), subset[large]),
    ]
    for reader, partner in met:
        assert reader.select(KEY).equals(partner.select(KEY))
        assert (
            reader["logits_at_partner_ids"]
            .list.len()
            .equals(partner["top_ids"].list.len(), check_names=False)
        )
        message = {}
        for row, ids, logits in zip(range(200), reader["top_ids"], reader["top_logits"], strict=False):
            message |= {(row, i): l for i, l in zip(ids, logits, strict=True)}
        requested = [
            ((row, i), l)
            for row, ids, logits in zip(
                range(200), partner["top_ids"], reader["logits_at_partner_ids"], strict=False
            )
            for i, l in zip(ids, logits, strict=True)
        ]
        shared = [(message[key], logit) for key, logit in requested if key in message]
        assert len(shared) > 1000
        assert all(one == other for one, other in shared)


@pytest.mark.parametrize("pair", PAIRS)
def test_rollouts_do_as_their_columns_say(data, pair):
    """Tokens follow calls, budgets are kept, rows are in the pipeline's order, and only of test prompts."""
    rows = parquet.read(f"data/rollouts/{pair}/sums/tokens-*.parquet")
    written = pl.when("called").then("fused_id").otherwise("default_id")
    assert rows.select((pl.col("token_id") == written).all()).item()
    assert rows.select((pl.col("mismatch") == (pl.col("fused_id") != pl.col("default_id"))).all()).item()
    tests = parquet.read("data/prompts/sums.parquet").filter(split="test")["prompt_id"]
    assert set(rows["prompt_id"]) == set(tests)
    called = dict(rows.group_by("policy").agg(pl.mean("called")).iter_rows())
    assert (called["oracle+always"], called["oracle+never"]) == (1, 0)
    assert all(
        0.15 < called[f"oracle+{name}@20"] < 0.25 for name in ("entropy", "margin", "logistic", "random")
    )
    shard = pq.read_table(data / f"rollouts/{pair}/sums/tokens-0000.parquet")
    assert shard.equals(shard.sort_by([(name, "ascending") for name in ("policy", *KEY)]))
    graded = parquet.read(f"data/graded/pairs/{pair}/sums.parquet")
    assert set(graded.select("policy", "prompt_id").rows()) == set(rows.select("policy", "prompt_id").rows())


def test_entropy_tells_mismatches(data):
    """Fused as the pipeline does it: doubt and error go together, closer models differ less often."""
    cof = {}
    for pair, (small, _) in synthetic.PAIRS.items():
        fuse.fuse_pair(load_settings(), pair)
        fused = parquet.read(f"data/fused/{pair}/sums/fused-*.parquet").filter(
            method="oracle", writer="small"
        )
        subset = parquet.read(f"data/dumps/{small}/sums/tokens-*.parquet", [*KEY, "entropy"])
        rows = fused.join(subset, on=KEY, validate="1:1")
        doubt_N, is_wrong_N = rows["entropy"].rank().to_numpy(), rows["mismatch"].to_numpy()
        wrong, right = is_wrong_N.sum(), (~is_wrong_N).sum()
        auroc = (doubt_N[is_wrong_N].sum() - wrong * (wrong + 1) / 2) / (wrong * right)
        assert 0.75 < auroc < 0.95
        cof[pair] = is_wrong_N.mean()
        assert fused["certified"].mean() > 0.95
    assert 0.04 < cof["middle-large"] < cof["small-large"] < 0.2


def test_a_seed_makes_the_same_bytes(home, tmp_path):
    """In every file; another seed makes other texts."""
    synthetic.write_lake(tmp_path / "again", PROMPTS, tokens=60, seed=3, block=BLOCK)
    made = [
        path.relative_to(home)
        for pattern in ("params.yaml", *(f"data/{name}-*.parquet" for name in ALL), "data/graded/*/*/*")
        for path in home.glob(pattern)
    ]
    assert len(made) > 40
    assert all((tmp_path / "again" / path).read_bytes() == (home / path).read_bytes() for path in made)
    prompts = parquet.read(home / "data/prompts/sums.parquet").head(2)
    one, other = (next(synthetic.imagine_texts(prompts, 0, 60, seed)).rows["token_id"] for seed in (3, 4))
    assert not one.equals(other)
