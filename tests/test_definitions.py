"""docs/definitions.md names everything that is computed, and its formulas are the code's."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsgen.analysis import costs
from fsgen.analysis.scaling import laws
from fsgen.collaboration import fusion
from fsgen.config import registry
from fsgen.config.policies import method_table

PAGE = (Path(__file__).parent.parent / "docs" / "definitions.md").read_text()
LOGITS = st.lists(st.floats(-8, 8), min_size=6, max_size=6).map(np.array)


@pytest.mark.parametrize("name", [*registry.RULES, *registry.ROUTERS, *laws.LAWS])
def test_every_name_of_a_registry_is_defined(name):
    """Rules, routers, laws."""
    assert f"`{name}`" in PAGE


def test_interval_methods_are_named():
    """And what they are for."""
    for word in ("Wilson", "BCa", "Kaplan-Meier", "clustered", "profile", "jackknife"):
        assert word in PAGE


FORMULAS = {  # as the page writes them
    "oracle": lambda l, s, f, p: l,
    "speculative": lambda l, s, f, p: l,
    "li2022": lambda l, s, f, p: l - s / p["tau"],
    "obrien2023": lambda l, s, f, p: (1 + p["beta"]) * l - p["beta"] * s,
    "average": lambda l, s, f, p: s + p["beta"] * (l - s),
    "proxy": lambda l, s, f, p: l + p["alpha"] * (f - s),
}


@pytest.mark.parametrize("rule", registry.RULES)
@given(l=LOGITS, s=LOGITS, f=LOGITS)
def test_fused_scores(rule, l, s, f):
    """Score and mask, over six ids."""
    method = method_table({rule: {}})[rule]
    reported = FORMULAS[rule](l, s, f, method.parameters)
    assert fusion.score(method, l, s, f) == pytest.approx(reported)
    may_win = fusion.plausibility_mask(method, l, l.max())
    if rule in ("li2022", "obrien2023", "average"):
        assert (may_win == (l >= l.max() + math.log(method.parameters["alpha"]))).all()
    else:
        assert may_win.all()


@given(st.integers(0, 50), st.integers(1, 60), st.integers(1, 5), st.integers(1, 9))
def test_flops(first, count, layers, width):
    """The sum of the page, term by term."""
    shape = costs.Shape(non_embedding=1000, head=77, layers=layers, width=width)
    context = sum(j + 1 for j in range(first, first + count))
    reported = 2 * (1000 + 77) * count + 4 * layers * width * context
    assert costs.stretch_flops(shape, np.array([first]), np.array([count]))[0] == reported


@given(st.floats(0.1, 5), st.floats(6, 80), st.floats(0.05, 2), st.floats(0.05, 2), st.floats(0.05, 2))
def test_laws(small, large, one, two, three):
    """Each at one pair of sizes."""
    reported = {
        "power": -one * (large / small) ** -two + three,
        "log_ratio": one + two * math.log10(large / small),
        "two_size": one + two * math.log10(large) + three * math.log10(small),
        "product": one * large**two * small**-three,
        "gap": one * (small**-two - large**-two),
    }
    for name, law in laws.LAWS.items():
        given_ = (one, two, three)[: len(law.parameters)]
        assert law.predict(small, large, *given_) == pytest.approx(reported[name])


def test_aicc():
    """n ln(RSS / n) + 2k + 2k(k + 1) / (n - k - 1), the variance counted."""
    small_P, large_P = np.array([0.5, 0.5, 1.8, 4.0, 7.0, 1.8]), np.array([7.0, 72.0, 14.0, 72.0, 32.0, 72.0])
    cof_P = np.array([0.11, 0.16, 0.09, 0.12, 0.08, 0.15])
    result = laws.fit("log_ratio", small_P, large_P, cof_P)
    told_P = result.params["c0"] + result.params["c1"] * np.log10(large_P / small_P)
    squares, n, k = ((told_P - cof_P) ** 2).sum(), 6, 3
    assert result.aicc == pytest.approx(n * math.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))
