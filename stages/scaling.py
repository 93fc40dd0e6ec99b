"""Fit the laws of collaboration frequency in model size.

python stages/scaling.py
"""

from fsgen.analysis.scaling import scaling
from fsgen.config.load import load_settings
from fsgen.execution import console


def main() -> None:
    scaling.write_scaling(load_settings())


if __name__ == "__main__":
    console.run(main)
