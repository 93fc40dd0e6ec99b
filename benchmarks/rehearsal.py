"""The whole graph on the paper's grid with tiny noisy models: what is left when models cost nothing.

    python benchmarks/rehearsal.py [--pairs 21]

DVC's own share is the wall time of `dvc repro` less that of the commands that it runs, which a stand-in for
`python` takes down; a command's own share that no stage counts is the interpreter's start and imports.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import torch
import yaml
from noop_repro import UP_TO_DATE
from sidebyside import Row, write_result
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fsgen import timings

ROOT = Path(__file__).parent.parent
PROFILE = ROOT / "profiles/qwen15.yaml"
PROMPTS, NEW_TOKENS = 24, 32
BASE, NOISE = "data/family/base-87k", 0.1  # noise in standard deviations of a weight
DATASETS = ("gsm8k", "mmlu_stem", "mbpp", "mtbench")  # the paper's four, by name; all ask for sums
CLOCK = """#!{python}
import subprocess, sys, time
start = time.time()
code = subprocess.run(["{python}", *sys.argv[1:]]).returncode
open("{log}", "a").write(f"{{sys.argv[1]}} {{start}} {{time.time()}}\\n")
sys.exit(code)
"""
ROW = Row(
    what="`dvc repro` of the paper's grid: DVC's own share a stage",
    against="wall clock, tiny models, 24 prompts of four datasets",
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
        first = time_repro(home, environment)
        noop = [time_repro(home, environment, UP_TO_DATE) for _ in range(3)]
        commands = pl.read_csv(log, separator=" ", has_header=False, new_columns=["script", "start", "end"])
        inside = sum(timings_of(home))
        sizes = {
            "models": len(params["models"]),
            "pairs": len(params["pairs"]),
            "datasets": len(params["datasets"]),
            "stages": len(commands),
            "token_rows": count_rows(home / "data"),
            "disk_mib": disk(home, ("data", ".dvc/cache", "scratch")) / 2**20,
        }
    spent = commands.select((pl.col("end") - pl.col("start")).sum()).item()
    seconds = {
        "wall": first,
        "dvc": first - spent,
        "starting interpreters": spent - inside,
        "inside stages": inside,
        "with nothing to do": sorted(noop)[1],
    }
    write_result("rehearsal", ROW, (first - spent) / len(commands), {"seconds": seconds, "sizes": sizes})


def stand_in(folder: Path, log: Path, home: Path) -> dict[str, str]:
    """An environment in which `python` takes down when each command began and ended."""
    folder.mkdir()
    clock = folder / "python"
    clock.write_text(CLOCK.format(python=sys.executable, log=log))
    clock.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(home), "TOKENIZERS_PARALLELISM": "false"}


def write_params(home: Path, pairs: int) -> dict:
    """The profile with its first pairs, noisy models in place of its own, and four datasets of sums."""
    params = yaml.safe_load(PROFILE.read_text())
    params["pairs"] = dict([*params["pairs"].items()][:pairs])
    wanted = {name for pair in params["pairs"].values() for name in pair.values()}
    names = [name for name in params["models"] if name in wanted]
    for seed, name in enumerate(names):
        make_model(home / BASE, home / "local" / name, seed)
    params["models"] = {name: {"path": f"local/{name}", "prompt": "plain"} for name in names}
    sums = {"task": "arith", "limit": PROMPTS, "max_new_tokens": NEW_TOKENS, "calibration": 0.25}
    params["datasets"] = dict.fromkeys(DATASETS, sums)
    (home / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False, default_flow_style=None))
    for stale in ("dvc.lock", "metrics", "plots"):
        target = home / stale
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    return params


def make_model(base: Path, folder: Path, seed: int) -> None:
    """A noisy copy of the base that often agrees with the others, `seed` layers of no effect larger.

    Learned routers need matches and mismatches, and laws sizes that differ.
    """
    config = LlamaConfig.from_pretrained(base)
    depth = config.num_hidden_layers
    config.num_hidden_layers += seed
    network = LlamaForCausalLM(config)
    network.load_state_dict(LlamaForCausalLM.from_pretrained(base).state_dict(), strict=False)
    torch.manual_seed(seed)
    for layer in network.model.layers[depth:]:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    for weights in network.parameters():
        weights.data += NOISE * weights.data.std(correction=0) * torch.randn_like(weights)
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def time_repro(home: Path, environment: dict[str, str], expected: str = "") -> float:
    """Wall seconds of `dvc repro`; exits where it fails or does not say what is expected."""
    start = time.perf_counter()
    done = subprocess.run(
        ["dvc", "repro"], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode or expected not in done.stdout:
        raise SystemExit(f"dvc repro failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return seconds


def timings_of(home: Path) -> list[float]:
    """Wall seconds that every stage counted itself, imports left out."""
    return timings.summarise(home / timings.KEPT)["wall_s"].to_list()


def count_rows(data: Path) -> int:
    """Rows of everything that is stored a token."""
    kinds = (
        "dumps/*/*/tokens-*",
        "large/*/*/reads-*",
        "small/*/*/reads-*",
        "fused/*/*",
        "rollouts/*/*/tokens-*",
    )
    return sum(pl.scan_parquet(data / f"{kind}.parquet").select(pl.len()).collect().item() for kind in kinds)


def disk(home: Path, folders: tuple[str, ...]) -> int:
    """Bytes that these folders take, files with several names counted once."""
    found = (path.stat() for folder in folders for path in (home / folder).rglob("*") if path.is_file())
    return sum({(told.st_dev, told.st_ino): told.st_blocks * 512 for told in found}.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=21)
    main(parser.parse_args().pairs)
