"""The sections of params.yaml as frozen dataclasses."""

from dataclasses import dataclass, field
from typing import Any

from fsgen.config.policies import Method, Policy, RouterConfig
from fsgen.config.registry import EXECUTORS, TASKS, resolve
from fsgen.config.roles import LARGE, SMALL, TUNED
from fsgen.errors import lookup_or_suggest


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """A benchmark, and how it is prompted."""

    task: str
    """Name of the benchmark, a key of `fsgen.config.registry.TASKS`."""
    max_new_tokens: int
    """Longest turn a model may write, in tokens."""
    path: str | None = None
    """Local file or folder with the hub's column names; without it the hub is used."""
    split: str = "test"
    """Split of the hub's dataset, or the file of a local folder."""
    limit: int | None = None
    """Number of prompts, calibration and test together, in a seeded order that a raise only extends."""
    shots: int = 0
    """Worked examples before the question."""
    calibration_share: float = 0.25
    """Share of the prompts on which routers are calibrated and which no result counts."""

    @property
    def definition(self) -> Any:
        """The `Task` that the registry names."""
        return resolve(TASKS, self.task, "the tasks that a dataset can name")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A checkpoint, its source and its prompt format."""

    prompt_format: str
    """`plain` text or the tokenizer's `chat` template; equal for all models of a pair."""
    hub: str | None = None
    """Repository of the hub, fetched once."""
    revision: str | None = None
    """Commit of the hub repository; required with `hub`, so that results can be rebuilt."""
    path: str | None = None
    """Local folder of a checkpoint, in place of `hub`."""
    embedded: str | None = None
    """Name of an embedded model."""
    dtype: str | None = None
    """`float32` or `bfloat16`; without it `compute.dtype` decides."""
    stop_tokens: tuple[str, ...] | None = None
    """Tokens that end a text; without it those that the checkpoint itself names."""
    parameter_count: float | None = None
    """All parameters, for estimates before the checkpoint is fetched; one that differs by 5 % is refused."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """A small and a large model that write together."""

    small: str
    """Name of a model: the one that writes."""
    tuned: str
    """The small model after fine-tuning, for `proxy`; the small model's own name where there is none."""
    large: str
    """Name of a model: the one that is called."""

    @property
    def has_tuned(self) -> bool:
        """Whether there is a fine-tuned small model."""
        return self.tuned != self.small

    def roles(self) -> dict[str, str]:
        """Role to model name, in the order of ROLES; `tuned` only where there is one."""
        models = {SMALL: self.small, TUNED: self.tuned, LARGE: self.large}
        return {role: model for role, model in models.items() if role != TUNED or self.has_tuned}


@dataclass(frozen=True, kw_only=True)
class DumpConfig:
    """What a record keeps of the logits."""

    nats_below_top: float
    """A stored list holds the ids whose logits are within so many nats of the highest one."""
    min_top_k: int
    """The fewest ids that a stored list holds."""
    max_top_k: int
    """The most ids that a stored list holds."""
    prompts_per_shard: int
    """Prompts in a shard."""
    tokens_after_stop: int = 0
    """Tokens kept after a stop string, outside every ratio."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Where models run, in which precision, how much at once, and on how many machines."""

    device: str
    """`auto`, `cpu` or `cuda`."""
    dtype: str
    """`auto` (bfloat16 on CUDA, float32 elsewhere), `float32` or `bfloat16`."""
    batch_size: int
    """Texts that are generated at once."""
    max_batch_tokens: int
    """Tokens of a batch in a scoring pass, padding included."""
    executor: str = "local"
    """`local` (this process) or `ray` (the cluster at RAY_ADDRESS), which leave the same bytes in float32 on
    devices of one kind."""
    replicas: int = 1
    """With `ray`, actors at most, each with the models of its stage."""
    gpus_per_replica: int = 0
    """With `ray`, cards of an actor; 0 runs it on a CPU."""

    @property
    def definition(self) -> Any:
        """The `ExecutorKind` that the registry names."""
        return resolve(EXECUTORS, self.executor, "the executors that compute.executor can name")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the page shows."""

    explorer_prompts: int
    """Test prompts of a dataset whose texts the report's explorer shows token by token."""


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Shares of answer styles in the base models' training text."""

    worked: float
    """Answers in worked steps."""
    terse: float
    """Bare answers."""
    wrong: float
    """Worked steps with a slip."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One base model of the embedded family."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    steps: int
    batch: int
    learning_rate: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One fine-tuned model of the embedded family."""

    base: str
    steps: int
    batch: int
    learning_rate: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """params.yaml as a whole."""

    seed: int
    """Of the order of prompts, of their split, of the random router and of what is sampled."""
    datasets: dict[str, DatasetConfig]
    """Benchmarks by name."""
    models: dict[str, ModelConfig]
    """Checkpoints by name."""
    pairs: dict[str, PairConfig]
    """Which of them write together, by name."""
    methods: dict[str, Method]
    """Rules of fusion by name."""
    routers: dict[str, RouterConfig]
    """Rules by which the large model is called, by name."""
    policies: tuple[Policy, ...]
    """What is run: `<method>+<router>[@<budget, percent of tokens>]`, or `<speculative method>@K` with K
    drafts a round."""
    dump: DumpConfig
    """What is kept of the logits, and in which pieces."""
    compute: ComputeConfig
    """Where and how models run."""
    report: ReportConfig
    """What the page shows."""
    allow_code_execution: bool = False
    """Whether grading may run programs that a model wrote, in a sandbox."""
    sandbox: str = "strict"
    """`strict`, or `weak` to go on where this machine grants less than the whole sandbox."""
    embedded_curriculum: CurriculumConfig | None = None
    """Shares of answer styles in the embedded models' training text; they add up to 1."""
    embedded_models: dict[str, PretrainConfig] = field(default_factory=dict)
    """Base models that the stage `train` trains, by name."""
    embedded_finetunes: dict[str, FinetuneConfig] = field(default_factory=dict)
    """Fine-tuned variants of them, which the stage `tune` trains, by name."""

    def policies_of(self, pair: str) -> list[Policy]:
        """The policies that this pair can run: all of them, less those that require a model it lacks."""
        methods = self.methods_of(pair)
        return [policy for policy in self.policies if policy.method in methods]

    def methods_of(self, pair: str) -> dict[str, Method]:
        """The methods that this pair can run: those whose rule requires no model that it lacks."""
        roles = self.pair(pair).roles().keys()
        return {name: method for name, method in self.methods.items() if method.definition.requires <= roles}

    def dtype_of(self, model: str) -> str:
        """The precision of a model: its own, else that of `compute`."""
        return self.models[model].dtype or self.compute.dtype

    def dataset(self, name: str) -> DatasetConfig:
        """The dataset of that name; UserError that offers the nearest where there is none."""
        return lookup_or_suggest(self.datasets, name, "datasets of params.yaml")

    def model(self, name: str) -> ModelConfig:
        """The model of that name; UserError that offers the nearest where there is none."""
        return lookup_or_suggest(self.models, name, "models of params.yaml")

    def pair(self, name: str) -> PairConfig:
        """The pair of that name; UserError that offers the nearest where there is none."""
        return lookup_or_suggest(self.pairs, name, "pairs of params.yaml")

    def embedded_model(self, name: str) -> PretrainConfig:
        """The base model of the embedded family; UserError that offers the nearest where there is none."""
        return lookup_or_suggest(self.embedded_models, name, "embedded_models of params.yaml")

    def embedded_finetune(self, name: str) -> FinetuneConfig:
        """The fine-tuned model of the embedded family; UserError where there is none."""
        return lookup_or_suggest(self.embedded_finetunes, name, "embedded_finetunes of params.yaml")
