"""Numbers and tables as text: shares in percent with their intervals, tables in Markdown."""


def percent(number: dict | None, key: str = "accuracy", prefix: str = "") -> str:
    """A share with its interval, in percent: 12.3 (10.1 to 14.9); a dash where there is none.

    The interval's ends stand under `<prefix>low` and `<prefix>high`.
    """
    if number is None or key not in number:
        return "-"
    low, high = number[f"{prefix}low"], number[f"{prefix}high"]
    return f"{number[key]:.1%} ({low:.1%} to {high:.1%})".replace("%", "")


def percent_if_known(number: dict | None, key: str, prefix: str = "") -> str:
    """As `percent`, for numbers that may be null: alone without an interval, a dash without a value."""
    if not number or number.get(key) is None:
        return "-"
    if number.get(f"{prefix}low") is None:
        return f"{number[key]:.1%}".removesuffix("%")
    return percent(number, key, prefix)


def quality(metrics: dict) -> str:
    """Accuracy or a judge's mean rating of a model or policy, with its interval; a dash without either."""
    if "rating" in metrics:
        return f"rated {metrics['rating']:.2f} ({metrics['rating_low']:.2f} to {metrics['rating_high']:.2f})"
    return percent(metrics)


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
