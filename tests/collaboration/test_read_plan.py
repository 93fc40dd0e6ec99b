"""Which models read whose texts follows from the rules of a pair's methods."""

from fsgen.collaboration.read_plan import read_plan
from fsgen.config.policies import Method


def methods(*rules: str) -> dict[str, Method]:
    return {rule: Method(rule=rule, parameters={}) for rule in rules}


def test_small_and_large_read_each_other_without_any_method():
    assert read_plan({}) == {"small": ("small", "large"), "large": ("small", "large")}


def test_rules_of_two_models_need_no_third_reader():
    plan = read_plan(methods("oracle", "speculative", "li2022", "obrien2023", "average"))

    assert plan == {"small": ("small", "large"), "large": ("small", "large")}


def test_proxy_lets_the_tuned_model_write_and_all_three_read_its_text():
    """Its score is l + alpha (f - s) along the texts of the large and of the tuned model."""
    assert read_plan(methods("oracle", "proxy")) == {
        "small": ("small", "large"),
        "tuned": ("small", "tuned", "large"),
        "large": ("small", "tuned", "large"),
    }
