"""Memory limits: batch sizes that are halved if memory runs out, and a cap that spares the OOM killer."""

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

Result = TypeVar("Result")
# of torch's allocator on the host, of oneDNN without a workspace, and of CUDA's libraries
MESSAGES = ("allocate memory", "could not create a primitive", "out of memory", "ALLOC_FAILED")


def limit_memory() -> None:
    """Cap this process's data at 80 % of the free memory, weights included.

    Allocations beyond it raise an error, which `MemoryBudget` retries at half the batch; without a cap Linux
    would kill the process. A limit that is already set stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY and (free := _free_memory()):
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + free * 4 // 5, hard))


def _free_memory() -> int:
    """Free bytes of the machine, or of the container if it has fewer; 0 if the system does not say."""
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if not meminfo.is_file():
        return 0
    free = 1024 * int(re.search(r"MemAvailable:\s+(\d+)", meminfo.read_text()).group(1))
    limit = group / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int((group / "memory.current").read_text()))
    return free


@contextmanager
def refuse_without_memory(name: str) -> Iterator[None]:
    """Raises UserError if memory runs out while the model `name` is loaded in this block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"Memory ran out while {name} was loaded; use bfloat16, a smaller model or more memory."
        ) from error


class MemoryBudget:
    """How much a pass may hold at once; halved if memory runs out, until the stage ends."""

    def __init__(self, size: int, unit: str):
        self.size, self.unit = size, unit

    def run(self, make: Callable[[int], Result]) -> Result:
        """make(size), repeated with half the size, and a warning, as often as memory runs out.

        Raises UserError if even a size of 1 does not fit.
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
            gc.collect()  # outside the handler, whose traceback refers to tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            console.warn(f"memory ran out with {self.unit} at {self.size}; going on with {self.size // 2}")
            self.size //= 2


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on a card or on the host, for which torch has no exception class."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(message in str(error) for message in MESSAGES)
