"""Compare the policies of every pair: frontiers, routers, off-policy estimates, divergences, drafting.

python stages/compare.py
"""

from fsgen.analysis.comparison import compare
from fsgen.config.load import load_settings
from fsgen.execution import console


def main() -> None:
    compare.compare(load_settings())


if __name__ == "__main__":
    console.run(main)
