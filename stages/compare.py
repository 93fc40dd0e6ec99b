"""Compare the policies of every pair: frontiers, duels, estimates beside rollouts, departures, drafting.

python stages/compare.py
"""

from fsgen import comparison, console, settings


def main() -> None:
    comparison.compare(settings.load())


if __name__ == "__main__":
    console.run(main)
