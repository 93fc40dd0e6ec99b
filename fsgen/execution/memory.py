"""Memory limits: batch sizes that halve when memory runs out, and a cap below the OOM killer."""

import gc
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from fsgen.errors import UserError
from fsgen.execution import console

T = TypeVar("T")


def limit_memory() -> None:
    """Let what exceeds four fifths of the free memory fail, which a Budget answers; Linux would kill instead.

    Weights count, the rest is left to everything else. A limit that is set already stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY and (free := _free_memory()):
        held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (held + free * 4 // 5, hard))


def _free_memory() -> int:
    """Bytes of the machine, or of the container where that has fewer; 0 where nobody tells."""
    told, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if not told.is_file():
        return 0
    free = 1024 * int(re.search(r"MemAvailable:\s+(\d+)", told.read_text()).group(1))
    limit = group / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int((group / "memory.current").read_text()))
    return free


@contextmanager
def refuse_without_memory(name: str) -> Iterator[None]:
    """While a model is being loaded: memory that runs out is a Complaint."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"Memory ran out while {name} was loaded; use bfloat16, a smaller model or more memory."
        ) from error


class MemoryBudget:
    """How much a pass may hold at once; it halves where memory runs out and stays halved for its stage."""

    def __init__(self, size: int, unit: str):
        self.size, self.unit = size, unit

    def spend(self, make: Callable[[int], T]) -> T:
        """make(size), again with half the size as often as memory runs out, saying so.

        Raises Complaint where even a size of 1 does not fit.
        """
        while True:
            try:
                return make(self.size)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.size == 1:
                    raise UserError(
                        f"Memory ran out with {self.unit} at 1; use bfloat16, a smaller model or more memory."
                    ) from error
            gc.collect()  # outside the handler, whose traceback holds on to tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            console.warn(f"memory ran out with {self.unit} at {self.size}; going on with {self.size // 2}")
            self.size //= 2


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on a card or (where torch has no class of its own) on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # of torch's allocator on the host, of oneDNN that gets no workspace, and of CUDA's libraries
    words = ("allocate memory", "could not create a primitive", "out of memory", "ALLOC_FAILED")
    return any(word in str(error) for word in words)
