"""The registry of tasks: a name in params.yaml to its module."""

from types import ModuleType

from fsgen.tasks import arith, bbh, gsm8k, math500, mbpp, mmlu_stem, mtbench

TASKS: dict[str, ModuleType] = {
    "arith": arith,
    "gsm8k": gsm8k,
    "mmlu_stem": mmlu_stem,
    "mbpp": mbpp,
    "math500": math500,
    "bbh": bbh,
    "mtbench": mtbench,
}
