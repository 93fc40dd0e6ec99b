"""Load a causal language model and run it: tokens to hidden states to float32 logits.

Shape legend: B texts side by side, L positions, H hidden width, N chosen positions, V usable vocabulary.
"""

import gc
import hashlib
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from fsgen import checkpoints, console
from fsgen.outlines import Outline
from fsgen.settings import Compute, Settings
from fsgen.typed import Complaint

T = TypeVar("T")
SHARED = ("models", "records", "texts", "cursor")  # rooms whose code decides what any model run leaves
# logits alive at once; in float32 just over 32 MiB, above which malloc gives freed memory back at once
HEAD_ELEMENTS = 10_000_000
transformers.utils.logging.disable_progress_bar()  # a stage has its own


@dataclass(frozen=True)
class Loaded(Outline):
    """A model in memory."""

    network: PreTrainedModel
    device: torch.device
    """Where it takes ids and leaves states and logits; its layers may lie on other cards."""

    def hidden(self, ids_BL: torch.Tensor, **where) -> torch.Tensor:
        """Last hidden states [B, L, H]; `where` carries mask, positions and cache."""
        first = self.network.device
        given = {name: x.to(first) if isinstance(x, torch.Tensor) else x for name, x in where.items()}
        return self.network.base_model(input_ids=ids_BL.to(first), **given).last_hidden_state.to(self.device)

    def spans(self, count: int) -> Iterator[slice]:
        """Stretches of `count` rows whose logits may be alive at once."""
        step = max(1, HEAD_ELEMENTS // self.vocabulary)
        return (slice(start, start + step) for start in range(0, count, step))

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """Float32 logits [N, V] of the head's own output precision; Complaint on NaN or infinity."""
        head = self.network.get_output_embeddings()
        whole_NV = head(hidden_NH.to(head.weight.device))
        logits_NV = whole_NV[:, : self.vocabulary].to(self.device).float()
        if not torch.isfinite(logits_NV.sum()):
            raise Complaint(
                f"{self.name} produced NaN or infinite logits in {self.network.dtype}; "
                "use float32 for it, or check its weights."
            )
        return logits_NV


def load_weights(settings: Settings, model: Outline) -> Loaded:
    """A model on the device and in the precision that params.yaml asks for.

    Complaint where its output is more than a linear head on hidden states, which `logits` assumes.
    """
    device, dtype = placement(settings.compute, model.source.dtype)
    if device.type == "cpu":  # where torch itself shares keys among heads, and need not be given copies
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
        _limit_memory()
    layout = {} if device.type == "cpu" else _layout(model, device, dtype)
    network = AutoModelForCausalLM.from_pretrained(
        checkpoints.folder(model.name, model.source), dtype=dtype, use_safetensors=True, **layout
    )
    if not layout:
        network.to(device)
    elif any(weights.is_meta for weights in network.parameters()):  # left on disk, to be read in every pass
        raise _too_wide(model, layout["max_memory"])
    network.eval().requires_grad_(False)
    loaded = Loaded(**vars(model), network=network, device=device)
    _check_head(loaded)
    return loaded


def _limit_memory() -> None:
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


def _layout(model: Outline, device: torch.device, dtype: torch.dtype) -> dict:
    """What lets `from_pretrained` lay a model's layers over all cards, where the first would be over full.

    Caches and activations need a fifth of a card, or make do with a twentieth where there is no other.
    Complaint where even so the cards are too few.
    """
    cards, needed = torch.get_device_module(device), model.parameters * dtype.itemsize
    gc.collect()
    cards.empty_cache()  # what models before this one had; torch keeps it, and it would not count as free
    free = [cards.mem_get_info(i)[0] for i in range(cards.device_count())]
    usable = {i: held * 19 // 20 for i, held in enumerate(free)}
    if needed > sum(usable.values()):
        raise _too_wide(model, usable)
    if len(free) == 1 or needed <= free[0] * 4 // 5:
        return {}
    return {"device_map": "auto", "max_memory": usable}


def _too_wide(model: Outline, usable: dict[int, int]) -> Complaint:
    return Complaint(
        f"The weights of {model.name} should fit into what is free on the cards "
        f"({sum(usable.values()) / 1e9:.1f} GB on {len(usable)}), and do not; use more cards or bfloat16."
    )


def placement(compute: Compute, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Device and precision: CUDA if present, bfloat16 there and float32 on a CPU, unless told otherwise.

    Under `ray` CUDA is present where replicas have cards, whatever this machine has.
    """
    is_far = compute.engine == "ray"
    if is_far and compute.device == "auto" and not compute.gpus_per_replica and torch.cuda.is_available():
        raise Complaint(
            "compute.engine is ray and gpus_per_replica 0, so models would run on CPUs, with local on the "
            "card here, which gives other numbers; set gpus_per_replica, or device to cpu."
        )
    has_cuda = compute.gpus_per_replica > 0 if is_far else torch.cuda.is_available()
    if compute.device == "cuda" and not has_cuda:
        lacks = "compute.gpus_per_replica is 0" if is_far else "torch finds no CUDA device"
        raise Complaint(f"compute.device is cuda, but {lacks}; use auto or cpu.")
    cuda = compute.device != "cpu" and has_cuda
    chosen = dtype or compute.dtype
    if chosen == "auto":
        chosen = "bfloat16" if cuda else "float32"
    return torch.device("cuda" if cuda else "cpu"), getattr(torch, chosen)


def run_facts(settings: Settings, rooms: tuple[str, ...], *names: str) -> dict:
    """What a fingerprint must hold about running models: their files, precision, device kind, and code.

    The code is that of SHARED and of `rooms`.
    """
    here = Path(__file__).parent
    code = [hashlib.sha256((here / f"{room}.py").read_bytes()).hexdigest() for room in SHARED + rooms]
    facts = {"torch": torch.__version__, "transformers": transformers.__version__, "code": code}
    for name in names:
        device, dtype = placement(settings.compute, settings.models[name].dtype)
        facts[name] = [checkpoints.read_description(name), device.type, str(dtype)]
    return facts


def _check_head(loaded: Loaded) -> None:
    ids_BL = torch.tensor([[0, 1]], device=loaded.network.device)
    with torch.inference_mode():
        whole = loaded.network(input_ids=ids_BL).logits[0, :, : loaded.vocabulary].to(loaded.device).float()
        ours = loaded.logits(loaded.hidden(ids_BL)[0])
    if not torch.allclose(whole, ours, rtol=1e-2, atol=1e-2):
        raise Complaint(
            f"{loaded.name} does more than a linear head to its logits (soft cap or scale); "
            "this architecture is not supported."
        )


@contextmanager
def room_for(name: str) -> Iterator[None]:
    """While a model is being loaded: memory that runs out is a Complaint."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise Complaint(
            f"Memory ran out while {name} was loaded; use bfloat16, a smaller model or more memory."
        ) from error


class Budget:
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
                    raise Complaint(
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
