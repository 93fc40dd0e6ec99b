"""Which counts of a policy its router fixes on any prompt, so that their ratios have no sampling error."""

from collections.abc import Iterable, Mapping

from fsgen.config.policies import Policy, RouterConfig

FixedCounts = Mapping[str, tuple[str, ...]]
"""Policy to the columns of counts whose ratio to tokens does not depend on the prompts."""


def fixed_counts(
    policies: Iterable[Policy], routers: Mapping[str, RouterConfig]
) -> dict[str, tuple[str, ...]]:
    """For each policy the counts that its router fixes; none where the policy has no router."""
    configs = {policy.name: router_of(policy, routers) for policy in policies}
    return {
        name: config.definition.fixed_counts if config is not None else () for name, config in configs.items()
    }


def router_of(policy: Policy, routers: Mapping[str, RouterConfig]) -> RouterConfig | None:
    """The router of a policy; None for one that drafts.

    The policy `<method>+always` runs for every method, also where params.yaml names no such router.
    """
    if policy.router is None:
        return None
    return routers.get(policy.router) or RouterConfig(rule=policy.router)
