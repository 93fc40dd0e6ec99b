"""Grade what a pair's policies wrote.

python stages/grade.py --pair arith-23k-451k
"""

from fsgen import benchmarks, console, settings


def main(pair: str) -> None:
    benchmarks.grade_pair(settings.load(), pair)


if __name__ == "__main__":
    console.run(main)
