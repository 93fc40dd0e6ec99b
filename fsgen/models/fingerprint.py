"""What a shard's fingerprint holds about the models that made it and the code that ran them."""

import torch
import transformers

from fsgen.config.schema import Settings
from fsgen.execution.code import code_digest
from fsgen.models import description
from fsgen.models.loading import placement
from fsgen.tables.schemas import dumps


def model_fingerprint(settings: Settings, module: str, *names: str) -> dict:
    """What decides the output of these models when `module` runs them: files, precision, device kind, code.

    Of the tables it holds the columns' names and types, so that a better sentence leaves every shard valid.

    `module` is the dotted name of the stage's module; see `code_digest` for what of the code counts.
    """
    facts = {"torch": torch.__version__, "transformers": transformers.__version__}
    facts["code"] = code_digest(module)
    facts["columns"] = dumps.layout()
    for name in names:
        device, dtype = placement(settings.compute, settings.models[name].dtype)
        facts[name] = [description.read_description(name), device.type, str(dtype)]
    return facts
