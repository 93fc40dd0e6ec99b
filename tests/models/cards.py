"""Cards that are not there: tensors that claim to lie on one of several, and that the CPU computes.

An operation on tensors of two cards fails as it does on real ones. A process that pretends them has them as
its accelerator for good, so this file is run: `python cards.py SIZE SIZE ..` runs the model stages of the
project in the current folder on cards of so many bytes, and prints which of them held which model at the end.
"""

import json
import sys
import weakref
from collections import Counter

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ATEN = torch.ops.aten
MOVES = (ATEN._to_copy.default, ATEN.copy_.default)
INDEXING = (ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_)


class OnCard(torch.Tensor):
    """A tensor that claims to lie on a card; `held` is where it lies."""

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=device
        )
        made.held = held
        STORE.note(made)
        return made

    def tolist(self):
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class Cards(TorchDispatchMode):
    """While it holds, tensors may be made on cards."""

    def __enter__(self):
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(.., device=..) would go below this mode
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self.before)
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def compute(function, args, kwargs):
    """What torch would answer if the cards were there."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
        with Cards():
            return function.decompose(*args, **kwargs)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on_cards = [x for x in tensors if isinstance(x, OnCard)]
    requested = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if not on_cards and (requested is None or requested.type != "card"):
        return function(*args, **kwargs)
    refuse_strangers(function, tensors, on_cards)
    if requested is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    target = requested or (args[0] if function is MOVES[1] else on_cards[0]).device
    known = {id(x.held): x for x in on_cards}

    def lay(x):
        if not isinstance(x, torch.Tensor) or target.type != "card":
            return x
        return known[id(x)] if id(x) in known else OnCard(x, torch.device("card", target.index or 0))

    bare = tree_map(lambda x: x.held if isinstance(x, OnCard) else x, (args, kwargs))
    return tree_map(lay, function(*bare[0], **bare[1]))


def refuse_strangers(function, tensors, on_cards) -> None:
    """Two cards never meet; the host's tensors come as scalars or as indices alone."""
    if function in MOVES:
        return
    hosted = [x for x in tensors if not isinstance(x, OnCard) and x.dim()]
    is_met = bool(on_cards and hosted) and function.overloadpacket not in INDEXING
    if is_met or len({x.device for x in on_cards}) > 1:
        raise RuntimeError(f"{function} was given tensors on {sorted({str(x.device) for x in tensors})}")


class Store:
    """The cards' memory, in bytes; as torch does, it keeps what was freed until it has to give it back."""

    def __init__(self):
        self.size, self.used, self.kept = [], [], []
        self.tensors: Counter[tuple[int, int]] = Counter()

    def note(self, made: OnCard) -> None:
        """Count the tensor's storage, if it is the first there, until the last one there goes."""
        storage, card = made.held.untyped_storage(), made.device.index
        position = (card, storage.data_ptr())
        if not self.tensors[position]:
            self.used[card] += storage.nbytes()
            self.kept[card] = max(self.kept[card], self.used[card])
        self.tensors[position] += 1
        weakref.finalize(made, self._leave, position, storage.nbytes())

    def _leave(self, position: tuple[int, int], size: int) -> None:
        self.tensors[position] -= 1
        if not self.tensors[position]:
            self.used[position[0]] -= size


STORE = Store()


class _Backend(backend_registration._DummyBackendModule):
    def device_count(self) -> int:
        return len(STORE.size)

    def mem_get_info(self, card: int) -> tuple[int, int]:
        return STORE.size[card] - STORE.kept[card], STORE.size[card]

    def empty_cache(self) -> None:
        STORE.kept = list(STORE.used)


def install(size: list[int]) -> None:
    """Give this process cards of so many bytes."""
    STORE.size, STORE.used, STORE.kept = size, [0] * len(size), [0] * len(size)
    backend_registration._setup_privateuseone_for_python_backend("card", _Backend())


def main(size: list[int]) -> None:
    install(size)
    from fsgen.models import loading

    places, load = {}, loading.load_checked

    def load_and_tell(loaded, model):
        made = load(loaded, model)
        places[model.name] = sorted({weights.device.index for weights in made.network.parameters()})
        return made

    loading.placement = lambda compute, dtype: (torch.device("card", 0), getattr(torch, dtype or "float32"))
    loading.load_checked = load_and_tell
    # the stages bind these two names when they are imported, so only now
    from fsgen.config.load import load_settings
    from fsgen.decoding import dump_rollouts
    from tests.conftest import run_pair

    with Cards():
        run_pair(load_settings())
        dump_rollouts.dump_rollouts(load_settings(), "duo")
    print(json.dumps(places))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
