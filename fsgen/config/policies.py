"""Methods, routers and the policies that combine them, as params.yaml names them."""

import math
import typing
from dataclasses import dataclass

from fsgen.config.parsing import coerce, require_mapping
from fsgen.config.registry import ROUTERS, RULES, resolve
from fsgen.errors import UserError, lookup_or_suggest


@dataclass(frozen=True, kw_only=True)
class Method:
    """A fusion rule with its parameters."""

    rule: str
    """`oracle`, `speculative`, `li2022`, `obrien2023`, `average` or `proxy`; by default the method's name."""
    parameters: dict[str, float]
    """`alpha`, `beta`, `tau`: keys of the method, by default 0.1, 0.5 and 0.5; alpha 1 for proxy."""

    @property
    def definition(self) -> typing.Any:
        """The `Rule` that the registry names: its score, its inputs, its attributes."""
        return resolve(RULES, self.rule, "the rules that a method can name")


@dataclass(frozen=True, kw_only=True)
class RouterConfig:
    """A rule by which the large model is called, and its threshold."""

    rule: str
    """`always`, `never`, `max_probability`, `margin`, `entropy`, `logistic`, `svm`, `random` or `perfect`; by
    default the router's name."""
    threshold: float | None = None
    """Threshold of a policy that names no budget, in the score's own unit."""

    @property
    def definition(self) -> typing.Any:
        """The `Router` that the registry names: its score, its fit, its attributes."""
        return resolve(ROUTERS, self.rule, "the rules that a router can name")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`<method>+<router>[@<budget percent>]`, or `<method>@K` for the speculative rule."""

    name: str
    method: str
    router: str | None = None
    budget: float | None = None
    """Target call ratio, as a share."""
    draft: int | None = None
    """Tokens drafted a round; set for the speculative rule alone."""


def method_table(raw: dict) -> dict[str, Method]:
    """Methods by name, defaults filled in; UserError where a rule or a parameter cannot be."""
    methods = {}
    for name, entry in raw.items():
        entry = dict(require_mapping(entry, f"methods.{name}"))
        rule = coerce(entry.pop("rule", name), str, f"methods.{name}.rule")
        known = resolve(RULES, rule, f"the rules that methods.{name} can name").parameters
        for key, value in entry.items():
            lookup_or_suggest(known, key, f"the keys of methods.{name} (rule {rule})")
            entry[key] = coerce(value, float, f"methods.{name}.{key}")
        defaults = {key: parameter.default for key, parameter in known.items()}
        methods[name] = Method(rule=rule, parameters=defaults | entry)
        _check_parameters(name, methods[name])
    return methods


def _check_parameters(name: str, method: Method) -> None:
    for key, parameter in method.definition.parameters.items():
        value = method.parameters[key]
        if not parameter.allows(value):
            raise UserError(
                f"methods.{name}.{key} should {parameter.range}, got {value}; {parameter.reason}."
            )


def policy_table(raw: object, methods: dict, routers: dict) -> tuple[Policy, ...]:
    """All policies, sorted by name, every method's +always among them; UserError where one cannot be."""
    if not isinstance(raw, list):
        raise UserError(f"policies should be a list such as [oracle+entropy@20], got {raw!r}.")
    named = {str(entry): parse_policy(str(entry), methods, routers) for entry in raw}
    for method, entry in methods.items():  # the text of +always is what CoF is counted on
        name = f"{method}+always"
        if not entry.definition.drafts and name not in named:
            named[name] = parse_policy(name, methods, routers | {"always": RouterConfig(rule="always")})
    return tuple(named[name] for name in sorted(named))


def parse_policy(text: str, methods: typing.Mapping, routers: typing.Mapping) -> Policy:
    """The policy that `text` names; UserError where method, router, budget or K cannot be."""
    head, _, amount = text.partition("@")
    method, _, router = head.partition("+")
    rule = lookup_or_suggest(methods, method, f"the methods that policy '{text}' can name").definition
    if rule.drafts:
        if router or not amount.isdigit() or int(amount) < 1:
            raise UserError(
                f"Policy '{text}' should read '{method}@K' with K >= 1: drafting takes no router."
            )
        return Policy(name=text, method=method, draft=int(amount))
    entry = lookup_or_suggest(routers, router, f"the routers that policy '{text}' can name")
    budget = _budget(text, amount) if amount else None
    _check_budget(text, router, entry, budget)
    return Policy(name=text, method=method, router=router, budget=budget)


def _check_budget(text: str, router: str, entry: RouterConfig, budget: float | None) -> None:
    """UserError where a router that calls always or never has a budget, or another one nothing to go by."""
    definition = entry.definition
    if definition.is_constant and budget is not None:
        amount = text.partition("@")[2]
        raise UserError(f"Policy '{text}' gives a budget to '{router}', which has none; drop '@{amount}'.")
    if definition.needs_threshold and budget is None and entry.threshold is None:
        raise UserError(
            f"Policy '{text}' needs a budget such as '@20', or a threshold 'routers.{router}.threshold'."
        )


def _budget(text: str, amount: str) -> float:
    try:
        percent = float(amount)
    except ValueError:
        percent = math.nan
    if not 0 < percent < 100:
        raise UserError(
            f"Policy '{text}' should give its budget in percent between 0 and 100, got '{amount}'."
        )
    return percent / 100


def name_policy(policy: Policy) -> dict[str, str]:
    """The columns of POLICY."""
    return {"method": policy.method, "router": policy.router or "drafting", "policy": policy.name}
