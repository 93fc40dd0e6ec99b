"""Where every table lies under data/: one function a folder, so that no other module spells a path.

A folder of a model or a pair holds one folder a dataset, and that one `<kind>-<shard>.parquet` files.
"""

from pathlib import Path

DATA = Path("data")


def prompts(dataset: str) -> Path:
    """The prompts of a dataset."""
    return DATA / "prompts" / f"{dataset}.parquet"


def model_description(model: str) -> Path:
    """What the `model` stage says of a checkpoint."""
    return DATA / "models" / f"{model}.json"


def catalogue(table: str = "") -> Path:
    """Tables of what is run: `models`, `pairs` and `policies`."""
    return DATA / "catalogue" / (f"{table}.parquet" if table else "")


def vocabulary(model: str) -> Path:
    """The text of every token of a model."""
    return DATA / "vocabulary" / f"{model}.parquet"


def dumps(model: str, dataset: str = "") -> Path:
    """Texts and token records of a model writing alone."""
    return DATA / "dumps" / model / dataset


def read_by_large(pair: str, dataset: str = "") -> Path:
    """Records of the large model on the texts of the small (and tuned) model."""
    return DATA / "teacher_forced" / "large" / pair / dataset


def read_by_small(pair: str, dataset: str = "") -> Path:
    """Records of the small (and tuned) model on the large one's texts and their own."""
    return DATA / "teacher_forced" / "small" / pair / dataset


def fused(pair: str, dataset: str = "") -> Path:
    """Every method's token at every dumped position."""
    return DATA / "fused" / pair / dataset


def routes(pair: str, dataset: str = "") -> Path:
    """Calibrated routers, simulated policies and router scores."""
    return DATA / "routes" / pair / dataset


def rollouts(pair: str, dataset: str = "") -> Path:
    """Texts that policies wrote themselves, with their decisions."""
    return DATA / "rollouts" / pair / dataset


def rollout_logits(pair: str, dataset: str = "") -> Path:
    """Records of all models of a pair on some policies' texts."""
    return DATA / "rollout_logits" / pair / dataset


def model_grades(model: str) -> Path:
    """Verdicts on the texts of a model, one file a dataset."""
    return DATA / "graded" / "models" / model


def policy_grades(pair: str) -> Path:
    """Verdicts on the texts of a pair's policies, one file a dataset."""
    return DATA / "graded" / "pairs" / pair


def counts(dataset: str) -> Path:
    """Counts, costs and verdicts of every policy on every prompt."""
    return DATA / "counts" / dataset


def comparisons(dataset: str = "") -> Path:
    """Tables of the `compare` stage."""
    return DATA / "comparisons" / dataset


def uncertainty(dataset: str = "") -> Path:
    """Tables of the `uncertainty` stage."""
    return DATA / "uncertainty" / dataset


def laws(source: str) -> Path:
    """Fits of the laws to `dumps` (our own pairs) or to `published` (FS-GEN's table)."""
    return DATA / "scaling" / source
