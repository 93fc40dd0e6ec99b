"""What a result was made with: code, versions, machine, and every model with its precision."""

import platform
import re
import subprocess
from importlib import metadata

from fsgen.config.schema import ModelConfig, Settings
from fsgen.execution.hardware import describe_machine
from fsgen.models import description, loading


def describe(settings: Settings) -> dict:
    """Commit, versions of what fsgen depends on, machine, and models: source, digests, device, dtype.

    Of the machine that asks, which is the one that ran the stages unless their outputs were carried.
    """
    return {
        "commit": _commit(),
        "versions": _versions(),
        "machine": describe_machine(),
        "models": {name: _model(settings, name, model) for name, model in settings.models.items()},
    }


def _commit() -> str | None:
    """The commit that is checked out, `+changes` if code differs from it; None outside git."""
    asked = ["git", "describe", "--always", "--abbrev=40", "--exclude=*"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    code = ["git", "status", "--porcelain", "--", "fsgen", "stages", "dvc.yaml", "queries"]
    changed = subprocess.run(code, capture_output=True, text=True, check=False).stdout.strip()
    return found.stdout.strip() + ("+changes" if changed else "")


def _versions() -> dict[str, str]:
    """Python's, and those of the distributions that fsgen itself asks for."""
    wanted = [line for line in metadata.requires("fsgen") or [] if "extra ==" not in line]
    names = [re.match(r"[\w.-]+", line).group() for line in wanted]
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in sorted(names)}


def _model(settings: Settings, name: str, model: ModelConfig) -> dict:
    about = description.read_description(name)
    device, dtype = loading.placement(settings.compute, model.dtype)
    source = model.path or model.family or f"{model.hub}@{model.revision}"
    return {
        "source": source,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "prompt": model.prompt,
        "parameters": about["parameters"],
        "files": about["files"],
    }
