"""A pair of models in memory, ready to write single texts under one policy."""

from typing import NamedTuple

import polars as pl

from fsgen.collaboration import route
from fsgen.collaboration.calibration import CalibratedRouter
from fsgen.config.policies import Method, Policy, parse_policy
from fsgen.config.schema import DumpConfig, Settings
from fsgen.decoding.texts import StopRule, stop_rule
from fsgen.errors import UserError
from fsgen.models import loading
from fsgen.models.loaded_model import LoadedModel
from fsgen.tables import parquet, paths


class PairSession(NamedTuple):
    """The models that a policy needs, and all that decides what they write together."""

    loaded: dict[str, LoadedModel]
    """By role."""
    policy: Policy
    method: Method
    router: CalibratedRouter | None
    """None if the policy drafts."""
    stop_rule: StopRule
    prompts: pl.DataFrame
    """The dataset's prompts, without follow-up questions."""
    seed: int
    dump: DumpConfig
    """What routers see of a model is cut as in a dump."""
    max_batch_tokens: int
    """Tokens that a pass of a model may hold."""


def open_session(settings: Settings, pair: str, policy: str, dataset: str) -> PairSession:
    """Load the models that a policy needs, and calibrate its router on the pair's dumps.

    The policy need not stand in params.yaml. UserError if its method or router is unknown, if it needs a
    tuned model that the pair does not have, or if it needs a threshold and there are no dumps to set it on.
    """
    models = settings.pair(pair).roles()
    max_new_tokens = settings.dataset(dataset).max_new_tokens
    parsed = parse_policy(policy, settings.methods, settings.routers)
    if parsed.method not in settings.methods_of(pair):
        raise UserError(f"Policy '{policy}' needs a tuned small model, and pairs.{pair} has none; add one.")
    method = settings.methods[parsed.method]
    router = None if parsed.draft else route.open_calibrated_router(settings, pair, dataset, parsed)
    roles = method.definition.requires | ({"small"} if parsed.draft else set())
    loaded = {role: loading.load_model(settings, name) for role, name in models.items() if role in roles}
    prompts = _single_turn_prompts(dataset)
    return PairSession(
        loaded=loaded,
        policy=parsed,
        method=method,
        router=router,
        stop_rule=stop_rule(loaded["large"], prompts, max_new_tokens),
        prompts=prompts,
        seed=settings.seed,
        dump=settings.dump,
        max_batch_tokens=settings.compute.max_batch_tokens,
    )


def _single_turn_prompts(dataset: str) -> pl.DataFrame:
    """The dataset's prompts in order; of a conversation the first question."""
    prompts = parquet.read(paths.prompts(dataset)).sort("order")
    return prompts.with_columns(follow_ups=pl.lit([], dtype=prompts.schema["follow_ups"]))


def dataset_prompt(session: PairSession, prompt_id: str) -> pl.DataFrame:
    """A prompts table of one row: the dataset's prompt of that id; UserError if it has none."""
    prompt = session.prompts.filter(prompt_id=prompt_id)
    if not len(prompt):
        example = session.prompts["prompt_id"][0]
        raise UserError(f"There is no prompt '{prompt_id}' in this dataset; name one such as '{example}'.")
    return prompt


def custom_prompt(session: PairSession, question: str) -> pl.DataFrame:
    """A prompts table of one row that asks this question; stop strings are those of the dataset."""
    messages = pl.Series([[{"role": "user", "content": question}]], dtype=session.prompts.schema["messages"])
    return session.prompts.head(1).with_columns(
        prompt_id=pl.lit("asked"), plain=pl.lit(question), messages=messages
    )
