"""Rewrite a params file of 0.1 with the names of 0.2.0, leaving every other byte as it is."""

from collections.abc import Iterator
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from fsgen.config.renamed import KEYS, ROUTER_RULES, SECTIONS
from fsgen.errors import UserError


class Rename(NamedTuple):
    """One name in the file, and the name that takes its place."""

    line: int
    """From 0."""
    column: int
    """First character of the value or key in which the old name is."""
    old: str
    new: str

    def __str__(self) -> str:
        """For a terminal."""
        return f"line {self.line + 1}: {self.old} -> {self.new}"


def migrate(text: str, name: str) -> tuple[str, list[Rename]]:
    """The text of a params file with the new names, and what was renamed, in the order of the file.

    A file that has the new names already comes back as it is. UserError where the text is no mapping in
    YAML, or holds both names of one key. `name` says in errors which file it is.
    """
    # a set: an entry with an alias (*) is visited more than once, and is written once
    renames = sorted(set(_find_renames(_parse(text, name), name)))
    lines = text.splitlines(keepends=True)
    for rename in reversed(renames):  # from the end, so that columns of the same line stay valid
        line = lines[rename.line]
        head, rest = line[: rename.column], line[rename.column :]
        lines[rename.line] = head + rest.replace(rename.old, rename.new, 1)
    return "".join(lines), renames


def _parse(text: str, name: str) -> CommentedMap:
    try:
        raw = YAML().load(text)
    except YAMLError as error:
        raise UserError(f"{name} is not valid YAML; correct its syntax: {error}") from error
    if not isinstance(raw, CommentedMap):
        raise UserError(f"{name} should hold a mapping of settings, got {type(raw).__name__}.")
    return raw


def _find_renames(raw: CommentedMap, name: str) -> Iterator[Rename]:
    yield from _keys_of(raw, SECTIONS, name)
    for section, keys in KEYS.items():
        content = raw.get(section)
        if isinstance(content, CommentedMap):
            entries = [entry for entry in content.values() if isinstance(entry, CommentedMap)]
            for mapping in entries or [content]:
                yield from _keys_of(mapping, keys, f"{section} of {name}")
    yield from _router_rules(raw, name)


def _keys_of(mapping: CommentedMap, renamed: dict[str, str], where: str) -> Iterator[Rename]:
    """Renames of the keys of one mapping; UserError where it holds a key under both names."""
    for old, new in renamed.items():
        if old in (mapping.lc.data or {}):  # not where a merge key (<<) brings it, which has its own place
            if new in mapping:
                raise UserError(f"{where} holds both '{old}' and '{new}', two names of one key; remove one.")
            yield Rename(*mapping.lc.key(old), old, new)


def _router_rules(raw: CommentedMap, name: str) -> Iterator[Rename]:
    """Renames of router rules, of routers that have a rule's name, and of the policies that use them."""
    routers = raw.get("routers")
    if not isinstance(routers, CommentedMap):
        return
    for entry in routers.values():
        if isinstance(entry, CommentedMap) and entry.get("rule") in ROUTER_RULES:
            yield Rename(*entry.lc.value("rule"), entry["rule"], ROUTER_RULES[entry["rule"]])
    named = {old: new for old, new in ROUTER_RULES.items() if _has_rule_of_its_name(routers, old)}
    yield from _keys_of(routers, named, f"routers of {name}")
    policies = raw.get("policies")
    for index, policy in enumerate(policies if isinstance(policies, CommentedSeq) else []):
        router = str(policy).partition("@")[0].partition("+")[2]
        if router in named:
            yield Rename(*policies.lc.item(index), f"+{router}", f"+{named[router]}")


def _has_rule_of_its_name(routers: CommentedMap, name: str) -> bool:
    """Whether there is a router of that name whose rule is called the same; another rule keeps the name."""
    entry = routers.get(name) or {}
    return name in routers and (not isinstance(entry, CommentedMap) or entry.get("rule", name) == name)
