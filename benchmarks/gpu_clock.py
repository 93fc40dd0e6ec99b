"""What a device does in a piece of work: seconds, kernels, host synchronisations, passes, memory."""

import contextlib
import statistics
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType

from fsgen.models.loaded_model import LoadedModel

SHOWN_KERNELS = 12
SYNC_WARNING = "called a synchronizing"


class Timed(NamedTuple):
    """Seconds of one side in every repetition, and what its last one returned."""

    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        """The median second count."""
        return statistics.median(self.seconds)


def synchronize(device: str) -> None:
    """Wait until the device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable, device: str) -> tuple[float, Any]:
    """Wall seconds of the work, the device's end awaited, and what it returned."""
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - start, result


def alternate(sides: dict[str, Callable], repetitions: int, device: str) -> dict[str, Timed]:
    """Every side in turn; whoever calls has run each of them once before."""
    seconds: dict[str, list[float]] = defaultdict(list)
    results: dict[str, Any] = {}
    for _ in range(repetitions):
        for name, work in sides.items():
            spent, results[name] = seconds_of(work, device)
            seconds[name].append(spent)
    return {name: Timed(seconds[name], results[name]) for name in sides}


def device_work(work: Callable, device: str) -> dict | None:
    """Seconds in which the device ran kernels or copies, how many, and the longest; None on a CPU."""
    if device != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    events = profiler.profiler.kineto_results.events()
    spans = [
        (event.start_ns(), event.duration_ns(), event.name())
        for event in events
        if event.device_type() == DeviceType.CUDA and "annotation" not in event.name()
    ]
    by_kernel: Counter[str] = Counter()
    for _, duration, name in spans:
        by_kernel[name[:90]] += duration
    longest = [[name, total / 1e9] for name, total in by_kernel.most_common(SHOWN_KERNELS)]
    return {"seconds": _covered(spans) / 1e9, "launches": len(spans), "longest": longest}


def _covered(spans: list[tuple[int, int, str]]) -> int:
    """Nanoseconds that lie in at least one span."""
    covered, reached = 0, 0
    for start, duration, _ in sorted(spans):
        covered += max(0, start + duration - max(start, reached))
        reached = max(reached, start + duration)
    return covered


def waiting_share(busy: dict | None, seconds: float) -> float | None:
    """The share of the wall seconds in which the device had nothing to do; None on a CPU."""
    return None if busy is None else max(0.0, 1 - busy["seconds"] / seconds)


def host_synchronizations(work: Callable, device: str) -> int | None:
    """How often the host waits for the device; None on a CPU."""
    if device != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(SYNC_WARNING in str(warning.message) for warning in caught)


class Passes(NamedTuple):
    """What went through a model."""

    passes: int
    positions: int
    """Padding included."""


@contextlib.contextmanager
def counting_passes(models: dict[str, LoadedModel]) -> Iterator[Callable[[], dict[str, Passes]]]:
    """Counts what goes through the networks of these models while it lasts; those of no pass are left out."""
    passes: Counter[str] = Counter()
    positions: Counter[str] = Counter()

    def count(name: str, kwargs: dict) -> None:
        passes[name] += 1
        positions[name] += kwargs["input_ids"].numel()

    with contextlib.ExitStack() as hooks:
        for name, model in models.items():
            hook = model.network.base_model.register_forward_pre_hook(
                lambda _, __, kwargs, name=name: count(name, kwargs), with_kwargs=True
            )
            hooks.callback(hook.remove)
        yield lambda: {name: Passes(passes[name], positions[name]) for name in passes}


class PeakMemory:
    """The most that the device holds during a piece of work, beyond what lies there before."""

    def __init__(self, device: str):
        self.is_card = device == "cuda"
        if self.is_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()

    def grown(self) -> int | None:
        """Bytes; None on a CPU."""
        return torch.cuda.max_memory_allocated() - self.before if self.is_card else None


def copy_bandwidth(size: int, device: str) -> float:
    """Bytes read plus bytes written a second by a copy of `size` bytes."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device)


def product_rate(width: int, dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of a product of two random square matrices."""
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    return 2 * width**3 / _best(lambda: left @ right, device)


def _best(work: Callable, device: str) -> float:
    """Seconds of ten runs in a row over ten, the best of five after a warm-up."""

    def ten() -> None:
        for _ in range(10):
            work()

    ten()
    return min(seconds_of(ten, device)[0] for _ in range(5)) / 10
