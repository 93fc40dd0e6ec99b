"""Measure how well the small model's uncertainty tells mismatches from matches.

python stages/uncertainty.py
"""

from fsgen.analysis.uncertainty import uncertainty
from fsgen.config.load import load_settings
from fsgen.execution import console


def main() -> None:
    uncertainty.write_uncertainty(load_settings())


if __name__ == "__main__":
    console.run(main)
