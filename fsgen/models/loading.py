"""Load a causal language model on the device and in the precision that params.yaml sets, and test it.

Shape legend: L positions, N chosen positions, H hidden width.
"""

import gc
import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM

from fsgen.config.schema import ComputeConfig, Settings
from fsgen.errors import UserError
from fsgen.execution import memory
from fsgen.models import checkpoints
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.models.loaded_model import LoadedModel
from fsgen.models.spec import ModelSpec, model_spec

transformers.utils.logging.disable_progress_bar()  # a stage has its own


def load_model(settings: Settings, name: str) -> LoadedModel:
    """The model `name`, loaded and tested."""
    return load_checked(settings.compute, model_spec(settings, name))


def load_checked(compute: ComputeConfig, model: ModelSpec) -> LoadedModel:
    """A model in memory, tested; UserError if memory does not suffice."""
    with memory.refuse_without_memory(model.name):
        loaded = load_weights(compute, model)
        _check_pieces(loaded)
    return loaded


@torch.inference_mode()
def _check_pieces(loaded: LoadedModel) -> None:
    """UserError unless a text that is read in two pieces gives the hidden states of one pass."""
    ids = list(range(min(8, loaded.vocabulary)))
    whole_LH = loaded.hidden_states(torch.tensor([ids], device=loaded.device))[0]
    cache = RaggedKVCache(loaded, max_batch_tokens=sys.maxsize)
    first_NH = cache.prefill([ids[:3], ids[:5]])
    second_NH = cache.append([ids[3:], ids[5:]])
    pieces_2LH = [
        torch.cat([first_NH[:3], second_NH[: len(ids) - 3]]),
        torch.cat([first_NH[3:], second_NH[len(ids) - 3 :]]),
    ]
    # bfloat16 differs by about a hundredth, a wrong mask or position by the order of one
    if any((piece_LH - whole_LH).norm() > 0.1 * whole_LH.norm() for piece_LH in pieces_2LH):
        raise UserError(
            f"{loaded.name} says something else when it reads in pieces, so its architecture is not "
            "supported: it needs keys and values that depend on token and position alone."
        )


def load_weights(compute: ComputeConfig, model: ModelSpec) -> LoadedModel:
    """A model on the device and in the precision that `compute` and its entry set.

    UserError if its logits are not a linear function of its hidden states, which `logits` assumes.
    """
    device, dtype = placement(compute, model.source.dtype)
    if device.type == "cpu":  # where torch shares keys among heads itself, without copies
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
        memory.limit_memory()
    layout = {} if device.type == "cpu" else _layout(model, device, dtype)
    network = AutoModelForCausalLM.from_pretrained(
        checkpoints.folder(model.name, model.source), dtype=dtype, use_safetensors=True, **layout
    )
    if not layout:
        network.to(device)
    elif any(weights.is_meta for weights in network.parameters()):  # left on disk, to be read in every pass
        raise _too_wide(model, layout["max_memory"])
    network.eval().requires_grad_(False)
    loaded = LoadedModel(**vars(model), network=network, device=device)
    _check_head(loaded)
    return loaded


def _layout(model: ModelSpec, device: torch.device, dtype: torch.dtype) -> dict:
    """Options of `from_pretrained` that spread a model's layers over all cards; empty if one card is enough.

    A fifth of a card is left for caches and activations, or a twentieth of each if layers are spread.
    UserError if the weights do not fit even so.
    """
    cards, needed = torch.get_device_module(device), model.parameters * dtype.itemsize
    gc.collect()
    cards.empty_cache()  # memory of earlier models, which torch keeps and which would not count as free
    free = [cards.mem_get_info(i)[0] for i in range(cards.device_count())]
    usable = {i: size * 19 // 20 for i, size in enumerate(free)}
    if needed > sum(usable.values()):
        raise _too_wide(model, usable)
    if len(free) == 1 or needed <= free[0] * 4 // 5:
        return {}
    return {"device_map": "auto", "max_memory": usable}


def _too_wide(model: ModelSpec, usable: dict[int, int]) -> UserError:
    return UserError(
        f"The weights of {model.name} should fit into what is free on the cards "
        f"({sum(usable.values()) / 1e9:.1f} GB on {len(usable)}), and do not; use more cards or bfloat16."
    )


def placement(compute: ComputeConfig, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Device and precision: by default CUDA if present, bfloat16 there and float32 on a CPU.

    On a cluster CUDA is present if replicas have cards, regardless of this machine.
    """
    is_cluster = compute.definition.is_cluster
    if is_cluster and compute.device == "auto" and not compute.gpus_per_replica and torch.cuda.is_available():
        raise UserError(
            "compute.executor is ray and gpus_per_replica 0, so models would run on CPUs, with local on the "
            "card here, which gives other numbers; set gpus_per_replica, or device to cpu."
        )
    has_cuda = compute.gpus_per_replica > 0 if is_cluster else torch.cuda.is_available()
    if compute.device == "cuda" and not has_cuda:
        lacks = "compute.gpus_per_replica is 0" if is_cluster else "torch finds no CUDA device"
        raise UserError(f"compute.device is cuda, but {lacks}; use auto or cpu.")
    cuda = compute.device != "cpu" and has_cuda
    chosen = dtype or compute.dtype
    if chosen == "auto":
        chosen = "bfloat16" if cuda else "float32"
    return torch.device("cuda" if cuda else "cpu"), getattr(torch, chosen)


def _check_head(loaded: LoadedModel) -> None:
    """UserError unless the network's own logits are those of `LoadedModel.logits`."""
    ids_BL = torch.tensor([[0, 1]], device=loaded.network.device)
    with torch.inference_mode():
        logits_NV = loaded.network(input_ids=ids_BL).logits[0, :, : loaded.vocabulary]
        ours_NV = loaded.logits(loaded.hidden_states(ids_BL)[0])
    if not torch.allclose(logits_NV.to(loaded.device).float(), ours_NV, rtol=1e-2, atol=1e-2):
        raise UserError(
            f"{loaded.name} does more than a linear head to its logits (soft cap or scale); "
            "this architecture is not supported."
        )
