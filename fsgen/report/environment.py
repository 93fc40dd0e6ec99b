"""What a result was made with: code, versions, machine, and every model with its precision."""

import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata

from fsgen.config.schema import ComputeConfig, ModelConfig
from fsgen.models import description


def describe(models: Mapping[str, ModelConfig], compute: ComputeConfig) -> dict:
    """Commit, versions of what fsgen depends on, machine, and models: source, digests, device, dtype.

    The machine is the one that runs this, which ran the stages too unless their outputs were copied here.
    """
    from fsgen.execution.hardware import describe_machine  # torch

    return {
        "commit": _commit(),
        "versions": _versions(),
        "machine": describe_machine(),
        "models": {name: _model(name, model, compute) for name, model in models.items()},
    }


def _commit() -> str | None:
    """The commit that is checked out, `+changes` if code differs from it; None outside git."""
    commit = _git("describe", "--always", "--abbrev=40", "--exclude=*")
    if commit is None:
        return None
    changes = _git("status", "--porcelain", "--", "fsgen", "stages", "dvc.yaml", "queries")
    return commit + ("+changes" if changes else "")


def _git(*words: str) -> str | None:
    """What a git command prints; None where it fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()


def _versions() -> dict[str, str]:
    """Versions of Python and of the distributions that fsgen requires without an extra."""
    required = [line for line in metadata.requires("fsgen") or [] if "extra ==" not in line]
    names = [re.match(r"[\w.-]+", line).group() for line in required]
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in sorted(names)}


def _model(name: str, model: ModelConfig, compute: ComputeConfig) -> dict:
    """Source, placement, prompt format, sizes and file digests of a model."""
    from fsgen.models.loading import placement  # torch

    described = description.read_description(name)
    device, dtype = placement(compute, model.dtype)
    return {
        "source": model.path or model.embedded or f"{model.hub}@{model.revision}",
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "prompt_format": model.prompt_format,
        "parameters": described["parameters"],
        "files": described["files"],
    }
