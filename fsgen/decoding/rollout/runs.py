"""Policies that are ready to run, and their texts before and after the models continue them."""

from typing import NamedTuple

from fsgen.collaboration.calibration import CalibratedRouter
from fsgen.config.policies import Method, Policy
from fsgen.decoding.texts import TokenSequence


class PolicyRun(NamedTuple):
    """A policy with its method and its calibrated router."""

    policy: Policy
    method: Method
    router: CalibratedRouter

    @property
    def name(self) -> str:
        """The policy as params.yaml names it."""
        return self.policy.name


class PendingText(NamedTuple):
    """A text that the models have to continue."""

    run: int
    """Index of the policy's run."""
    prompt: int
    """Index of the prompt."""
    text: TokenSequence
    """The tokens so far."""


class FinishedText(NamedTuple):
    """A text whose turns have all ended."""

    run: int
    """Index of the policy's run."""
    prompt: int
    """Index of the prompt."""
    text: TokenSequence
