"""Turn one benchmark into prompts, split into calibration and test.

python stages/prompts.py --dataset gsm8k
"""

from fsgen import benchmarks, console, settings


def main(dataset: str) -> None:
    benchmarks.write_prompts(settings.load(), dataset)


if __name__ == "__main__":
    console.run(main)
