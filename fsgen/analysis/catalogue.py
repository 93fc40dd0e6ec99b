"""The catalogue of a run: its models with their sizes, its pairs by role, its policies.

Stage `catalogue`, right after `model`. Reads data/models/<model>.json of every model, and of params.yaml the
sections datasets, models, pairs, methods, routers and policies. Writes data/catalogue/models.parquet,
pairs.parquet and policies.parquet. It needs no prompts and no texts, so views over pairs exist before any
model has run.
"""

from collections.abc import Iterable, Iterator, Mapping

from fsgen.config.policies import Policy, RouterConfig, name_policy
from fsgen.config.schema import ModelConfig, PairConfig, Settings
from fsgen.execution import console
from fsgen.models import description
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.catalogue import MODELS, PAIRS, POLICIES

SOURCES = ("hub", "path", "embedded")  # a model names one of these keys


def write_catalogue(settings: Settings) -> None:
    """Write data/catalogue/{models,pairs,policies}.parquet."""
    described = {name: description.read_description(name) for name in settings.models}
    policies = [row for pair in settings.pairs for row in policy_rows(settings, pair)]
    out = paths.catalogue()
    with files.atomic_folder(out) as folder:
        parquet.write(folder / "models.parquet", [*model_rows(settings.models, described)], MODELS)
        pairs = [*pair_rows(settings.datasets, settings.pairs, described)]
        parquet.write(folder / "pairs.parquet", pairs, PAIRS)
        parquet.write(folder / "policies.parquet", policies, POLICIES)
    counts = f"{len(described)} models, {len(settings.pairs)} pairs, {len(settings.policies)} policies"
    console.done(f"{out}: {counts}")


def model_rows(models: Mapping[str, ModelConfig], described: Mapping[str, Mapping]) -> Iterator[dict]:
    """Rows of MODELS; `described` maps models to their descriptions."""
    for name, model in models.items():
        sizes = described[name]["parameters"]
        yield {
            "model": name,
            "prompt_format": model.prompt_format,
            "source": next(source for source in SOURCES if getattr(model, source) is not None),
            "total_parameters": sizes["total"],
            "non_embedding_parameters": sizes["non_embedding"],
            "head_parameters": sizes["head"],
            **described[name]["shape"],
        }


def pair_rows(
    datasets: Iterable[str], pairs: Mapping[str, PairConfig], described: Mapping[str, Mapping]
) -> Iterator[dict]:
    """Rows of PAIRS: on every dataset, which model plays which role, and how large it is."""
    for dataset in datasets:
        for pair, entry in pairs.items():
            ratio = size_ratio(*(described[model]["parameters"] for model in (entry.small, entry.large)))
            for role, model in entry.roles().items():
                sizes = described[model]["parameters"]
                yield {
                    "dataset": dataset,
                    "pair": pair,
                    "role": role,
                    "model": model,
                    "non_embedding_parameters": sizes["non_embedding"],
                    "total_parameters": sizes["total"],
                    "size_ratio": ratio,
                }


def size_ratio(small: Mapping[str, int], large: Mapping[str, int]) -> float:
    """Non-embedding parameters of the large model over those of the small one; laws are fitted to them.

    Both are divided in billions, as the points of the laws hold them, so that the last digit agrees.
    """
    return (large["non_embedding"] / 1e9) / (small["non_embedding"] / 1e9)


def policy_rows(settings: Settings, pair: str) -> Iterator[dict]:
    """Rows of POLICIES for the policies that the pair can run."""
    for policy in settings.policies_of(pair):
        yield {
            "pair": pair,
            **name_policy(policy),
            "method_rule": settings.methods[policy.method].rule,
            "router_rule": _router_rule(policy, settings.routers),
            "budget": policy.budget,
            "draft_length": policy.draft,
        }


def _router_rule(policy: Policy, routers: Mapping[str, RouterConfig]) -> str | None:
    """The rule of a policy's router; `always` runs for every method without being named in params.yaml."""
    if policy.router is None:
        return None
    return routers[policy.router].rule if policy.router in routers else policy.router
