"""Which models read whose dumped texts, as the rules of a pair's methods require."""

from collections.abc import Mapping

from fsgen.config.policies import Method
from fsgen.config.roles import LARGE, ROLES, SMALL


def read_plan(methods: Mapping[str, Method]) -> dict[str, tuple[str, ...]]:
    """Writer of a text to the models whose logits are needed along it: roles, in the order of ROLES.

    A method is fused along the large model's text and, unless it drafts, along that of its default model.
    There its rule compares the models that it requires. Small and large read each other's texts in any case:
    mismatches with the small model and the view of token pairs rest on that.
    """
    readers_of = {SMALL: {SMALL, LARGE}, LARGE: {SMALL, LARGE}}
    for method in methods.values():
        rule = method.definition
        for writer in rule.fused_along:
            readers_of.setdefault(writer, {SMALL, LARGE}).update(rule.requires)
    return {
        writer: tuple(role for role in ROLES if role in readers_of[writer])
        for writer in ROLES
        if writer in readers_of
    }
