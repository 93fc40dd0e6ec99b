"""Refit the laws to the table published with FS-GEN, and count its claims.

python stages/published.py
"""

from pathlib import Path

from fsgen.analysis.scaling import published
from fsgen.execution import console


def main() -> None:
    published.write_published(Path("data/published/cof.csv"))


if __name__ == "__main__":
    console.run(main)
