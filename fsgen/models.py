"""Load a causal language model and run it: tokens to hidden states to float32 logits.

Shape legend: B texts side by side, L positions, H hidden width, N chosen positions, V usable vocabulary.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from fsgen import checkpoints
from fsgen.settings import Compute, Settings
from fsgen.typed import Complaint

ROOMS = ("models", "records", "texts", "cursor", "decoding", "reading", "rollout", "fusion", "routers")


@dataclass(frozen=True)
class Loaded:
    """A model in memory with what the loops need to know of it."""

    name: str
    network: PreTrainedModel
    tokenizer: object
    prompt: str
    vocabulary: int
    """Ids of the tokenizer; a larger output matrix is padding and is cut off."""
    stop_ids: tuple[int, ...]
    context: int

    @property
    def device(self) -> torch.device:
        return self.network.device

    def hidden(self, ids_BL: torch.Tensor, **where) -> torch.Tensor:
        """Last hidden states [B, L, H]; `where` carries mask, positions and cache."""
        return self.network.base_model(input_ids=ids_BL, **where).last_hidden_state

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """Float32 logits [N, V] of the head's own output precision; Complaint on NaN or infinity."""
        logits_NV = self.network.get_output_embeddings()(hidden_NH)[:, : self.vocabulary].float()
        if not torch.isfinite(logits_NV.sum()):
            raise Complaint(
                f"{self.name} produced NaN or infinite logits in {self.network.dtype}; "
                "use float32 for it, or check its weights."
            )
        return logits_NV


def load(settings: Settings, name: str) -> Loaded:
    """The model `name` of params.yaml on the device and in the precision that they ask for.

    Complaint where its output is more than a linear head on hidden states, which `logits` assumes.
    """
    model = settings.named("models", name)
    device, dtype = placement(settings.compute, model.dtype)
    network = AutoModelForCausalLM.from_pretrained(
        checkpoints.folder(name, model), dtype=dtype, use_safetensors=True
    )
    network.to(device).eval().requires_grad_(False)
    about = checkpoints.read_description(name)
    loaded = Loaded(
        name=name,
        network=network,
        tokenizer=checkpoints.load_tokenizer(name, model),
        prompt=model.prompt,
        vocabulary=about["vocabulary"],
        stop_ids=tuple(about["stop_ids"]),
        context=about["shape"]["context"],
    )
    _check_head(loaded)
    return loaded


def placement(compute: Compute, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Device and precision: CUDA if present, bfloat16 there and float32 on a CPU, unless told otherwise."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise Complaint("compute.device is cuda, but torch finds no CUDA device; use auto or cpu.")
    cuda = compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available())
    chosen = dtype or compute.dtype
    if chosen == "auto":
        chosen = "bfloat16" if cuda else "float32"
    return torch.device("cuda" if cuda else "cpu"), getattr(torch, chosen)


def run_facts(settings: Settings, *names: str) -> dict:
    """What a fingerprint must hold about running models: their files, precision, device kind, and code."""
    here = Path(__file__).parent
    code = [hashlib.sha256((here / f"{room}.py").read_bytes()).hexdigest() for room in ROOMS]
    facts = {"torch": torch.__version__, "transformers": transformers.__version__, "code": code}
    for name in names:
        device, dtype = placement(settings.compute, settings.models[name].dtype)
        facts[name] = [checkpoints.read_description(name), device.type, str(dtype)]
    return facts


def prompt_ids(loaded: Loaded, prompts, max_new_tokens: int) -> list[list[int]]:
    """Prompt ids of every row of a prompts table; Complaint if prompt and text exceed the context."""
    ids = checkpoints.encode(loaded.name, loaded.prompt, loaded.tokenizer, prompts)
    longest = max(map(len, ids))
    if longest + max_new_tokens > loaded.context:
        raise Complaint(
            f"{loaded.name} has a context of {loaded.context} tokens, but a prompt of {longest} tokens and "
            f"{max_new_tokens} new ones need more; lower shots or max_new_tokens."
        )
    return ids


def _check_head(loaded: Loaded) -> None:
    ids_BL = torch.tensor([[0, 1]], device=loaded.device)
    with torch.inference_mode():
        whole = loaded.network(input_ids=ids_BL).logits[0, :, : loaded.vocabulary].float()
        ours = loaded.logits(loaded.hidden(ids_BL)[0])
    if not torch.allclose(whole, ours, rtol=1e-2, atol=1e-2):
        raise Complaint(
            f"{loaded.name} does more than a linear head to its logits (soft cap or scale); "
            "this architecture is not supported."
        )
