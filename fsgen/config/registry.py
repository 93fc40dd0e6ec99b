"""The names that params.yaml may use, and where what each names is defined.

One line a name: `module:attribute`, imported when it is asked for. So a run that grades no formulas imports
no sympy, and this package imports none of those above it.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from fsgen.errors import lookup_or_suggest

TASKS = {
    "arith": "fsgen.tasks.arith:TASK",
    "gsm8k": "fsgen.tasks.gsm8k:TASK",
    "mmlu_stem": "fsgen.tasks.mmlu_stem:TASK",
    "mbpp": "fsgen.tasks.mbpp:TASK",
    "math500": "fsgen.tasks.math500:TASK",
    "bbh": "fsgen.tasks.bbh:TASK",
    "mtbench": "fsgen.tasks.mtbench:TASK",
}
RULES = {
    "oracle": "fsgen.collaboration.fusion:ORACLE",
    "speculative": "fsgen.collaboration.fusion:SPECULATIVE",
    "li2022": "fsgen.collaboration.fusion:LI2022",
    "obrien2023": "fsgen.collaboration.fusion:OBRIEN2023",
    "average": "fsgen.collaboration.fusion:AVERAGE",
    "proxy": "fsgen.collaboration.fusion:PROXY",
}
ROUTERS = {
    "always": "fsgen.collaboration.routers:ALWAYS",
    "never": "fsgen.collaboration.routers:NEVER",
    "max_probability": "fsgen.collaboration.routers:MAX_PROBABILITY",
    "margin": "fsgen.collaboration.routers:MARGIN",
    "entropy": "fsgen.collaboration.routers:ENTROPY",
    "logistic": "fsgen.collaboration.learned_routers:LOGISTIC",
    "svm": "fsgen.collaboration.learned_routers:SVM",
    "random": "fsgen.collaboration.routers:RANDOM",
    "perfect": "fsgen.collaboration.routers:PERFECT",
}
EXECUTORS = {
    "local": "fsgen.execution.executors:LOCAL",
    "ray": "fsgen.execution.ray_executor:RAY",
}


def resolve(registry: Mapping[str, str], name: object, where: str) -> Any:
    """The object that a registry names; UserError that offers the nearest name where it has no such line.

    `where` says what was asked, as in "the rules that methods.x can name".
    """
    module, _, attribute = lookup_or_suggest(registry, name, where).partition(":")
    return getattr(importlib.import_module(module), attribute)
