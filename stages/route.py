"""Calibrate a pair's routers and simulate its policies on the dumps.

python stages/route.py --pair arith-23k-451k
"""

from fsgen.collaboration import route
from fsgen.config.load import load_settings
from fsgen.execution import console


def main(pair: str) -> None:
    route.route_pair(load_settings(), pair)


if __name__ == "__main__":
    console.run(main)
