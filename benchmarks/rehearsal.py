"""The whole graph on the paper's grid with tiny noisy models: what is left when models cost nothing.

    python benchmarks/rehearsal.py [--pairs 21]

What is committed is cloned and run on one thread. DVC's own share is the wall time of `dvc repro` less that
of the commands that it runs, which a stand-in for `python` takes down; a command's share that no stage counts
is its interpreter's: start, imports and end.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import torch
import yaml
from lake_at_size import count
from noop_repro import time_repro
from sidebyside import REPETITIONS, Row, write_result
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fsgen.execution import timings

ROOT = Path(__file__).parent.parent
PROFILE = ROOT / "profiles/qwen15.yaml"
PROMPTS, NEW_TOKENS = 24, 32
BASE, NOISE = "data/embedded/base-87k", 0.1  # noise in standard deviations of a weight
DATASETS = ("gsm8k", "mmlu_stem", "mbpp", "mtbench")  # the paper's four, by name; all ask for sums
CLOCK = """#!{python} -IS
import os, sys, time
start = time.time()
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
status = os.waitpid(child, 0)[1]
open("{log}", "a").write(f"{{sys.argv[1]}} {{start}} {{time.time()}}\\n")
sys.exit(os.waitstatus_to_exitcode(status))
"""  # -IS: site-packages cost time that would count as DVC's
ROW = Row(
    what="`dvc repro` of the paper's grid: DVC's own share a stage",
    against="wall clock, tiny models, 24 to 27 prompts of four datasets",
    target=2,
    definition="Wall seconds of the whole command less those of the commands that it ran, divided "
    "by the number of stages.",
    unit="s",
    bound="at most",
)


def main(pairs: int) -> None:
    """Build the grid, run it, run it again; writes results/rehearsal.json."""
    with tempfile.TemporaryDirectory() as folder:
        home, log = Path(folder) / "grid", Path(folder) / "commands.txt"
        subprocess.run(["git", "clone", "--quiet", ROOT, home], check=True)
        environment = stand_in(Path(folder) / "bin", log, home)
        params = write_params(home, pairs)
        forget_results(home)
        wall = time_everything(home, environment)
        stages = read_stages(log, home)
        again = [time_repro(home) for _ in range(REPETITIONS)]
        sizes = {name: len(params[name]) for name in ("models", "pairs", "datasets")}
        sizes |= {"stages": len(stages), "token_rows": count(home)["rows"], "disk_mib": disk(home)}
    seconds = share_out(wall, stages) | {"with nothing to do": statistics.median(again)}
    rest = {"seconds": seconds, "seconds_a_stage": by_kind(stages), "sizes": sizes}
    write_result(Path(__file__).stem, ROW, seconds["dvc"] / len(stages), rest)


def stand_in(folder: Path, log: Path, home: Path) -> dict[str, str]:
    """An environment in which `python` takes down when each command began and ended."""
    folder.mkdir()
    clock = folder / "python"
    clock.write_text(CLOCK.format(python=sys.executable, log=log))
    clock.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": ""}


def write_params(home: Path, pairs: int) -> dict:
    """The profile with its first pairs, noisy models in place of its own, and four datasets of sums."""
    params = yaml.safe_load(PROFILE.read_text())
    params["pairs"] = dict([*params["pairs"].items()][:pairs])
    wanted = {name for pair in params["pairs"].values() for name in pair.values()}
    names = [name for name in params["models"] if name in wanted]
    for seed, name in enumerate(names):
        make_model(home / BASE, home / "local" / name, seed)
    params["models"] = {name: {"path": f"local/{name}", "prompt_format": "plain"} for name in names}
    sums = {"task": "arith", "max_new_tokens": NEW_TOKENS, "calibration_share": 0.25}
    limits = range(PROMPTS, PROMPTS + len(DATASETS))  # not the same: equal files would be stored once
    params["datasets"] = {name: sums | {"limit": limit} for name, limit in zip(DATASETS, limits, strict=True)}
    (home / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False, default_flow_style=None))
    return params


def forget_results(home: Path) -> None:
    """Remove what git holds of the default run."""
    (home / "dvc.lock").unlink()
    shutil.rmtree(home / "metrics")
    shutil.rmtree(home / "plots")


def make_model(base: Path, folder: Path, seed: int) -> None:
    """A noisy copy of the base that often agrees with the others, `seed` layers of no effect larger.

    Learned routers need matches and mismatches, and laws sizes that differ.
    """
    torch.manual_seed(seed)
    config = LlamaConfig.from_pretrained(base)
    depth = config.num_hidden_layers
    config.num_hidden_layers += seed
    network = LlamaForCausalLM(config)
    network.load_state_dict(LlamaForCausalLM.from_pretrained(base).state_dict(), strict=False)
    for layer in network.model.layers[depth:]:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    for weights in network.parameters():
        weights.data += NOISE * weights.data.std(correction=0) * torch.randn_like(weights)
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def time_everything(home: Path, environment: dict[str, str]) -> float:
    """Wall seconds of the `dvc repro` that runs it all; exits where it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        ["dvc", "repro"], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"dvc repro failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return time.perf_counter() - start


def read_stages(log: Path, home: Path) -> pl.DataFrame:
    """A row a command: its kind, and seconds of DVC before it, of its interpreter, and inside the stage.

    Before the first command DVC also starts itself; that is null here.
    """
    commands = pl.read_csv(log, separator=" ", has_header=False, new_columns=["script", "start", "end"])
    commands = commands.with_columns(kind=pl.col("script").str.extract(r"(\w+)\.py"))
    counted = timings.summarise(home / timings.KEPT)
    counted_kind = counted["stage"].str.split("@").list.first()
    assert counted_kind.equals(commands["kind"], check_names=False), "stages and commands are not the same"
    inside = pl.col("inside")
    return commands.with_columns(counted["wall_s"].alias("inside")).select(
        "kind",
        dvc=pl.col("start") - pl.col("end").shift(),
        interpreter=pl.col("end") - pl.col("start") - inside,
        inside=inside,
    )


def share_out(wall: float, stages: pl.DataFrame) -> dict[str, float]:
    """Where the seconds of the whole command went."""
    shares = {name: stages[name].sum() for name in ("interpreter", "inside")}
    return {"wall": wall, "dvc": wall - sum(shares.values()), **shares}


def by_kind(stages: pl.DataFrame) -> dict[str, dict]:
    """Mean seconds a stage of every kind, and how many there are, in the order of the run."""
    means = pl.col("dvc", "interpreter", "inside").mean()
    result = stages.group_by("kind", maintain_order=True).agg(pl.len().alias("stages"), means)
    return {row.pop("kind"): row for row in result.to_dicts()}


def disk(home: Path) -> float:
    """MiB of what the run wrote, files with several names counted once."""
    folders = ("data", ".dvc/cache", "scratch")
    result = (path.stat() for folder in folders for path in (home / folder).rglob("*") if path.is_file())
    return (
        sum({(reported.st_dev, reported.st_ino): reported.st_blocks * 512 for reported in result}.values())
        / 2**20
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=21)
    main(parser.parse_args().pairs)
