"""A pair's routers are calibrated and simulated on the dumps.

python stages/route.py --pair arith-23k-451k
"""

from fsgen import console, settings, simulation


def main(pair: str) -> None:
    simulation.route_pair(settings.load(), pair)


if __name__ == "__main__":
    console.run(main)
