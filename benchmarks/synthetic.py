"""Synthetic dumps: a lake of any size with the tables and the statistics of a real one, from a seed."""

import argparse
import json
import random
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import yaml
from imagined import (
    DUMP,
    END,
    METHODS,
    MODELS,
    PAIRS,
    VOCABULARY,
    Kind,
    Text,
    imagine_texts,
    longest,
    make_chance,
    text_rows,
)
from imagined_rollouts import POLICIES, Rolled, roll

from fsgen.analysis.scaling import published
from fsgen.models import vocabulary
from fsgen.tables import parquet
from fsgen.tables.schemas import catalogue
from fsgen.tables.schemas.dumps import READS, RECORD, TEXTS, TOKENS
from fsgen.tables.schemas.scaling import SERIES_TABLES
from fsgen.tables.schemas.tasks import MODEL_GRADES, POLICY_GRADES, PROMPTS
from fsgen.tasks import arith, arith_problems
from fsgen.tasks.prompts import split_of

ROOT = Path(__file__).parent.parent
DATASET = "sums"
CALIBRATION = 0.25
CORE_COLUMNS = [name for name, _, _ in RECORD]


def write_lake(home: Path, prompts: int, tokens: int = 250, seed: int = 20240618, block: int = 256) -> None:
    """Write params.yaml and, under data/, all that the stages from `fuse` to `uncertainty` read.

    Texts have `tokens` tokens on average, a shard `block` prompts. Memory is that of a block.
    """
    data = home / "data"
    data.mkdir(parents=True, exist_ok=True)
    (home / "params.yaml").write_text(yaml.safe_dump(list_params(prompts, tokens, seed, block)))
    pieces = write_models(data)
    points = published.read_points(ROOT / "data/published/cof.csv")
    parquet.write(data / "scaling/published/scaling_points.parquet", points, SERIES_TABLES["scaling_points"])
    requested = make_prompts(prompts, seed)
    parquet.write(data / f"prompts/{DATASET}.parquet", requested, PROMPTS)
    press = Press(data, pieces, block)
    for number in range(-(-prompts // block)):
        mine = requested[number * block : (number + 1) * block]
        press.print_block(number, mine, list(imagine_texts(mine.sort("prompt_id"), number, tokens, seed)))
    press.finish()
    write_grades(data, requested, seed)


def list_params(prompts: int, tokens: int, seed: int, block: int) -> dict:
    """The content of params.yaml; `random` calls by its seed."""
    model = {"revision": "0" * 40, "prompt_format": "plain"}
    dataset = {"task": "arith", "limit": prompts, "max_new_tokens": longest(tokens)}
    return {
        "seed": seed,
        "datasets": {DATASET: dataset | {"calibration_share": CALIBRATION}},
        "models": {name: {"hub": f"synthetic/{name}"} | model for name in MODELS},
        "pairs": {name: {"small": s, "tuned": s, "large": l} for name, (s, l) in PAIRS.items()},
        "methods": METHODS,
        "routers": {"margin": {"threshold": 0.4}}
        | {name: {} for name in ("always", "never", "entropy", "logistic", "random", "perfect")},
        "policies": [*POLICIES, "speculative@3"],
        "dump": DUMP | {"prompts_per_shard": block},
        "compute": {"device": "cpu", "dtype": "bfloat16", "batch_size": 64, "max_batch_tokens": 8192},
        "report": {"explorer_prompts": 8},
    }


def write_models(data: Path) -> pa.Array:
    """Descriptions and vocabularies of the models; returns what every id spells in a text."""
    (data / "models").mkdir(exist_ok=True)
    pieces, kinds = spell_ids()
    entries = {"token_id": np.arange(VOCABULARY), "piece": pieces, "token_class": kinds}
    first, *others = (data / f"vocabulary/{name}.parquet" for name in MODELS)
    parquet.write(first, entries, catalogue.VOCABULARY)
    for path in others:
        shutil.copy(first, path)
    for name, kind in MODELS.items():
        (data / f"models/{name}.json").write_text(json.dumps(describe(name, kind), indent=2))
    return pa.array([*pieces[:-1], ""])


def describe(name: str, kind: Kind) -> dict:
    """A model's description, its digests made up."""
    counts = {"non_embedding": kind.non_embedding, "head": kind.head}
    return {
        "model": name,
        "prompt_format": "plain",
        "files": {"model.safetensors": name},
        "tokenizer": "synthetic",
        "vocabulary": VOCABULARY,
        "stop_ids": [END],
        "parameters": counts | {"total": kind.non_embedding + kind.head},
        "shape": {"context": 32768, "layers": kind.layers, "width": kind.width},
    }


def spell_ids() -> tuple[list[str], list[str]]:
    """Piece and kind of every id: common marks, digits and words, then words and now and then a number."""
    marks = [".", ",", "\n", " (", ")", ":", " =", " +", " -", " $"]
    common = [*marks, *map(str, range(10)), " The", " of", " and", " is", " to", " a"]
    rare = range(len(common), END)
    kinds = [*map(vocabulary.kind_of, common), *("word" if i % 10 else "number" for i in rare), "special"]
    return [*common, *(f" w{i}" if i % 10 else f" {i}" for i in rare), "<|end|>"], kinds


def make_prompts(count: int, seed: int) -> pl.DataFrame:
    """Word problems of `arith` in a seeded order of their names, which does not follow the alphabet."""
    chance = random.Random(seed)
    places = np.random.default_rng(seed).permutation(count)
    rows = []
    for order, position in enumerate(places.tolist()):
        question, _, answer = arith_problems.make_problem(chance)
        name = f"{DATASET}-{position:06d}"
        rows.append(
            {
                "prompt_id": name,
                "order": order,
                "split": split_of(name, CALIBRATION),
                "messages": [{"role": "user", "content": question}],
                "plain": question,
                "follow_ups": [],
                "stops": [],
                "stop_tokens": [],
                "answer": arith.ANSWER,
                "gold": json.dumps({"answer": f"#### {answer}"}),
            }
        )
    return pl.from_arrow(pa.Table.from_pylist(rows, schema=PROMPTS))


class Press:
    """Writes the tables of block after block; rollouts have blocks of test prompts alone."""

    def __init__(self, data: Path, pieces: pa.Array, block: int):
        self.data, self.pieces = data, pieces
        self.rollout_rows = {pair: Rolled(data / f"rollouts/{pair}/{DATASET}", block) for pair in PAIRS}

    def print_block(self, number: int, prompts: pl.DataFrame, texts: list[Text]) -> None:
        """The shards of one block of prompts."""
        tested = prompts.filter(split="test")["prompt_id"].to_list()
        by_writer = {text.writer: text for text in texts}
        for model, text in by_writer.items():
            self.put(f"dumps/{model}", "tokens", number, token_rows(text), TOKENS)
            self.put(f"dumps/{model}", "texts", number, text_rows(text, self.pieces), TEXTS)
        for pair, (small, large) in PAIRS.items():
            subset, other = by_writer[small], by_writer[large]
            self.put(
                f"teacher_forced/large/{pair}",
                "reads",
                number,
                read_rows(subset, "small", "large", large, small),
                READS,
            )
            reads = [
                read_rows(subset, "small", "small", small, large),
                read_rows(other, "large", "small", small, large),
            ]
            self.put(f"teacher_forced/small/{pair}", "reads", number, pa.concat_tables(reads), READS)
            self.rollout_rows[pair].add(*roll(subset, other, self.pieces), tested)
            self.rollout_rows[pair].write(is_last=False)

    def put(self, folder: str, name: str, number: int, table, columns: pa.Schema) -> None:
        """One shard of one table."""
        parquet.write(self.data / folder / DATASET / f"{name}-{number:04d}.parquet", table, columns)

    def finish(self) -> None:
        """What is left of the rollouts."""
        for rollout_rows in self.rollout_rows.values():
            rollout_rows.write(is_last=True)


def token_rows(text: Text) -> pa.Table:
    """A text's rows with its writer's records."""
    return pa.table(text.rows | core(text.seen[text.writer]))


def core(seen: dict) -> dict:
    """Of what is seen, the columns of a record."""
    return {name: seen[name] for name in CORE_COLUMNS}


def read_rows(text: Text, writer: str, reader: str, model: str, partner: str) -> pa.Table:
    """A text's rows with a reader's records; `writer` and `reader` are roles, the others models."""
    count = len(text.rows["pos"])
    roles = {"writer": pa.array([writer] * count), "reader": pa.array([reader] * count)}
    reported = roles | text.rows | core(text.seen[model]) | text.seen[f"{model}@{partner}"]
    return pa.table(reported | {"max_tuned_minus_small_outside": pa.nulls(count, pa.float32())}).select(
        READS.names
    )


def write_grades(data: Path, prompts: pl.DataFrame, seed: int) -> None:
    """Verdicts on every text: models by their accuracy, policies between their two models'."""
    chance = make_chance(seed, len(MODELS))
    requested = prompts.sort("prompt_id")
    for name, kind in MODELS.items():
        table = judge(chance, requested, kind.accuracy)
        parquet.write(data / f"graded/models/{name}/{DATASET}.parquet", table, MODEL_GRADES)
    tested = requested.filter(split="test")
    for pair, (small, large) in PAIRS.items():
        frames = []
        for policy in POLICIES:
            part = 0.0 if policy.endswith("never") else 1.0 if policy.endswith("always") else 0.6
            accuracy = (1 - part) * MODELS[small].accuracy + part * MODELS[large].accuracy
            frames.append(judge(chance, tested, accuracy).with_columns(policy=pl.lit(policy)))
        parquet.write(data / f"graded/pairs/{pair}/{DATASET}.parquet", pl.concat(frames), POLICY_GRADES)


def judge(chance: np.random.Generator, prompts: pl.DataFrame, accuracy: float) -> pl.DataFrame:
    """A verdict on a text of every prompt; one in fifty holds no answer."""
    drawn_P = chance.random(len(prompts))
    verdict_P = np.where(drawn_P < accuracy, "right", np.where(drawn_P > 0.98, "unknown", "wrong"))
    extracted_P = chance.integers(0, 1000, len(prompts)).astype(str)
    nothing = {name: pl.lit(None, pl.String) for name in ("outcome", "detail")}
    return prompts.select(
        "prompt_id",
        "split",
        turn=pl.lit(1, pl.Int32),
        verdict=pl.Series(verdict_P),
        extracted=pl.when(pl.Series(verdict_P) != "unknown").then(pl.Series(extracted_P)),
        strict=pl.Series(verdict_P),
        flexible=pl.Series(verdict_P),
        **nothing,
        rating=pl.lit(None, pl.Float32),
    )


def main() -> None:
    """Make a lake in a folder: `python benchmarks/synthetic.py FOLDER --prompts 400`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=250)
    parser.add_argument("--seed", type=int, default=20240618)
    parser.add_argument("--block", type=int, default=256)
    write_lake(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
