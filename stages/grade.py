"""Grade what a pair's policies wrote.

python stages/grade.py --pair arith-30k-1m
"""

from fsgen import benchmarks, console, settings


def main(pair: str) -> None:
    benchmarks.grade_pair(settings.load(), pair)


if __name__ == "__main__":
    console.run(main)
