"""Which engine writes and reads the texts of a model; today the models are in this process."""

from functools import partial

from fsgen.config.schema import DumpConfig
from fsgen.decoding.greedy import generate_greedy
from fsgen.decoding.protocol import Generator, Scorer
from fsgen.decoding.teacher_forcing import teacher_force
from fsgen.models.loaded_model import LoadedModel


def generator_of(loaded: LoadedModel, dump: DumpConfig, max_batch_tokens: int) -> Generator:
    """The Generator of a model; its records are cut as `dump` says."""
    return partial(generate_greedy, loaded, dump, max_batch_tokens)


def scorer_of(loaded: dict[str, LoadedModel], dump: DumpConfig) -> Scorer:
    """The Scorer of several models by role; its records are cut as `dump` says."""
    return partial(teacher_force, loaded, dump)
