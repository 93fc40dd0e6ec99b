"""What fsgen's loops do on one GPU: writing, reading and rollouts of random models, and exactness.

    python benchmarks/gpu.py               # at most 7 minutes on an H100 or H200
    python benchmarks/gpu.py --miniature   # the same on a CPU, with tiny models, in half a minute

Needs torch and transformers, and no network: models have random weights in the shapes of Qwen2.5 0.5B, 1.5B
and 7B in bfloat16. Writes results/gpu/<card>.json after every case. What no longer fits into `--minutes` is
skipped and says so; a case that fails leaves its error and the next one runs.
"""

import argparse
import contextlib
import json
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gpu_worlds
import one_thread  # noqa: F401 - before torch
import torch
import transformers
from gpu_cases import Bench, read_case, rollout_case, static_case, write_case
from gpu_clock import copy_bandwidth, product_rate
from gpu_exactness import exactness_case

RESULTS = Path(__file__).parent / "results" / "gpu"
DATA_LIMIT = 1 << 42  # bytes; a limit that stands is not lowered by what loads a model on the CPU


class Case(NamedTuple):
    """A named measurement."""

    name: str
    needs: float
    """Seconds that it is likely to take on a card at full size."""
    run: Callable[[dict], dict]
    """Takes the results so far."""


def main() -> None:
    """Measure until the time is spent."""
    options = _parse_options()
    start = time.monotonic()
    scale = gpu_worlds.MINIATURE if options.miniature else gpu_worlds.FULL
    device = "cpu" if options.miniature else "cuda"
    _prepare()
    result = _environment(device, options)
    path = options.out.absolute() / f"{_slug(result['card'])}.json"
    with gpu_worlds.on_random_models(scale, device) as (settings, models):
        bandwidth, rate = (
            copy_bandwidth(scale.copied_bytes, device),
            product_rate(scale.product_width, scale.dtype, device),
        )
        result |= {"copy_bytes_per_second": bandwidth, "product_flops": rate}
        result["attention"] = models["qwen-7b"].network.config._attn_implementation
        bench = Bench(scale, device, settings, models, bandwidth, rate)
        for case in list_cases(bench):
            left = options.minutes * 60 - (time.monotonic() - start)
            result["cases"][case.name] = _run_case(case, left, result["cases"], options.miniature)
            result["seconds"] = time.monotonic() - start
            _write(path, result)


def list_cases(bench: Bench) -> list[Case]:
    """All cases, the most important first."""
    few, many = bench.scale.rows
    family, device = bench.scale.family_limit, bench.device
    names = f"write 0.5b, {few} rows", f"write 7b, {few} rows"
    return [
        Case("float32 equals the CPU", 45, lambda _: exactness_case(family, device)),
        Case(names[0], 40, lambda _: write_case(bench, "qwen-0_5b", few)),
        Case(names[1], 45, lambda _: write_case(bench, "qwen-7b", few)),
        Case("rollout 0.5b with 7b", 90, lambda _: rollout_case(bench)),
        Case("read 0.5b", 15, lambda _: read_case(bench, "qwen-0_5b")),
        Case("read 7b", 20, lambda _: read_case(bench, "qwen-7b")),
        Case(
            f"generate static compiled 0.5b, {few} rows",
            80,
            lambda cases: static_case(bench, "qwen-0_5b", few, cases.get(names[0])),
        ),
        Case(f"write 0.5b, {many} rows", 50, lambda _: write_case(bench, "qwen-0_5b", many)),
        Case(
            f"generate static compiled 7b, {few} rows",
            80,
            lambda cases: static_case(bench, "qwen-7b", few, cases.get(names[1])),
        ),
        Case(f"write 0.5b, {few} rows, uneven ends", 60, lambda _: write_case(bench, "qwen-0_5b", few, True)),
        Case(f"write 1.5b, {few} rows", 40, lambda _: write_case(bench, "qwen-1_5b", few)),
        Case("read 1.5b", 15, lambda _: read_case(bench, "qwen-1_5b")),
    ]


def _run_case(case: Case, left: float, so_far: dict, miniature: bool) -> dict:
    """The case's figures, or why there are none."""
    if not miniature and left < case.needs:
        _say(f"{case.name}: skipped, {left:.0f} s left")
        return {"skipped": f"{left:.0f} s were left, it takes about {case.needs:.0f}"}
    start = time.monotonic()
    try:
        figures = case.run(so_far)
    except Exception as error:  # one case less is better than none
        _say(f"{case.name}: failed\n{traceback.format_exc()}")
        figures = {"error": f"{type(error).__name__}: {error}"[:2000]}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    figures["case_seconds"] = time.monotonic() - start
    _say(f"{case.name}: {_summary(figures)}")
    return figures


def _summary(figures: dict) -> str:
    """The figures of a case that fit into a line."""
    shown = {
        name: value
        for name, value in figures.items()
        if name.startswith(("ratio", "share_of", "waiting", "equal", "tokens_per", "positions_per", "peak"))
        or name in ("case_seconds", "host_synchronizations_of_sampled_tokens", "stage_seconds", "error")
    }
    return json.dumps(rounded(shown))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=7, help="cases that would end later are skipped")
    parser.add_argument("--miniature", action="store_true", help="tiny models on the CPU")
    options = parser.parse_args()
    if not options.miniature and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; use --miniature")
    return options


def _prepare() -> None:
    """Float32 products in float32, no bars, and a limit on memory that loading leaves alone."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (DATA_LIMIT, hard))


def _environment(device: str, options: argparse.Namespace) -> dict:
    """The card and the versions that the figures hold for, and room for the cases."""
    cuda = device == "cuda"
    return {
        "card": torch.cuda.get_device_name() if cuda else "miniature",
        "card_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "miniature": options.miniature,
        "minutes": options.minutes,
        "cases": {},
    }


def _slug(card: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def _write(path: Path, result: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(result), indent=1) + "\n")


def rounded(value):
    """The value with every float at five significant digits; more would be noise."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _say(line: str) -> None:
    """A line on the terminal, though the stages' own lines are not shown."""
    print(line, file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
