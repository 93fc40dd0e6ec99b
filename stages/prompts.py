"""Turn one benchmark into prompts, split into calibration and test.

python stages/prompts.py --dataset gsm8k
"""

from fsgen.config.load import load_settings
from fsgen.execution import console
from fsgen.tasks import prompts


def main(dataset: str) -> None:
    prompts.write_prompts(load_settings(), dataset)


if __name__ == "__main__":
    console.run(main)
