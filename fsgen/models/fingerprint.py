"""What a shard's fingerprint holds about the models that made it and the code that ran them."""

import torch
import transformers

from fsgen.config.schema import ComputeConfig
from fsgen.execution.code import code_digest
from fsgen.models import description
from fsgen.models.loading import placement
from fsgen.models.spec import ModelSpec
from fsgen.tables.schemas import dumps


def model_fingerprint(compute: ComputeConfig, module: str, *models: ModelSpec) -> dict:
    """What determines these models' output when `module` runs them: files, precision, device kind, code.

    `module` is the dotted name of the stage's module; see `code_digest` for what of the code counts. Of the
    tables the names and types of columns count, so that a better sentence leaves every shard valid.
    """
    facts = {"torch": torch.__version__, "transformers": transformers.__version__}
    facts["code"] = code_digest(module)
    facts["columns"] = dumps.layout()
    for model in models:
        device, dtype = placement(compute, model.source.dtype)
        facts[model.name] = [description.read_description(model.name), device.type, str(dtype)]
    return facts
