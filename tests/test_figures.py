"""Claims about fsgen.figures: same bytes for same numbers, panels named, nothing from nothing."""

import matplotlib as mpl
import numpy as np
import pytest

from fsgen import figures, scaling
from fsgen.typed import Complaint

SIZES = {"tiny": 3e4, "small": 2e5, "large": 3e6}


def share(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.03}


def accuracy(value, **more):
    return {"accuracy": value, "low": value - 0.05, "high": value + 0.05, **more}


def metrics_of(sizes):
    """What metrics/<dataset>.json holds, with CoF on the line 0.02 + 0.05 log10 r."""
    names = list(sizes)
    pairs = {}
    for i, small in enumerate(names):
        for large in names[i + 1 :]:
            oracle = 0.02 + 0.05 * np.log10(sizes[large] / sizes[small])
            pairs[f"{small}_{large}"] = {
                "small": small,
                "large": large,
                "cof": {"oracle": share(oracle), "proxy": share(oracle + 0.04)},
                "policies": {
                    "oracle+always": accuracy(0.8, call_ratio=1.0),
                    "oracle+entropy@10": accuracy(0.5, call_ratio=0.11),
                    "oracle+entropy@20": accuracy(0.6, call_ratio=0.22),
                    "proxy+random@20": accuracy(0.4, call_ratio=0.2),
                    "speculative@5": accuracy(0.8, call_ratio=None),
                },
            }
    models = {name: accuracy(0.3, parameters=size) for name, size in sizes.items()}
    return {"models": models, "pairs": pairs}


METRICS = metrics_of(SIZES)
TABLE = scaling.scaling_table({"arith": METRICS, "gsm8k": METRICS})


def drawn(draw, numbers):
    with mpl.rc_context(figures.STYLE):
        return draw(numbers)


@pytest.mark.parametrize(
    ("draw", "numbers", "titles"),
    [
        (figures.cof, TABLE, ["arith", "gsm8k"]),
        (figures.frontier, METRICS, ["small_large", "tiny_large", "tiny_small"]),
    ],
)
def test_a_figure_drawn_twice_has_the_same_bytes_and_names_its_panels(tmp_path, draw, numbers, titles):
    """No date, no random ids; a second drawing cannot make a committed figure look changed."""
    once, twice = tmp_path / "plots" / "once.svg", tmp_path / "twice.svg"
    draw(numbers, once)
    draw(numbers, twice)

    assert once.read_bytes() == twice.read_bytes()
    for title in titles:
        assert f"<!-- {title} -->" in once.read_text()
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["once.svg", "twice.svg"]


@pytest.mark.parametrize(
    ("draw", "numbers", "sentence"),
    [
        (figures.cof, {}, "needs at least one pair with a CoF, got none"),
        (figures.cof, {"arith": {"oracle": {"points": []}}}, "needs at least one pair"),
        (figures.frontier, {"models": {}, "pairs": {}}, "needs at least one policy"),
        (figures.frontier, {"models": {}, "pairs": {"a": {"policies": {}}}}, "at least one policy"),
    ],
)
def test_nothing_to_draw_is_refused_in_one_sentence(tmp_path, draw, numbers, sentence):
    """An empty frame would look like a result; no file is left behind."""
    with pytest.raises(Complaint, match=sentence):
        draw(numbers, tmp_path / "empty.svg")
    assert list(tmp_path.iterdir()) == []


def test_points_stand_at_their_ratio_and_percent_and_the_law_runs_through_them():
    """CoF was made by the law, so the line's ends are CoF at the smallest and largest ratio."""
    ax = drawn(figures.draw_cof, TABLE).axes[0]
    points, law = ax.containers[0].lines[0], ax.lines[1]
    ratios, percents = points.get_data()

    assert sorted(ratios) == pytest.approx([2e5 / 3e4, 15, 100])
    assert percents == pytest.approx(2 + 5 * np.log10(ratios))
    assert law.get_xdata() == pytest.approx([ratios.min(), ratios.max()])
    assert law.get_ydata() == pytest.approx([percents.min(), percents.max()])


def test_a_law_that_few_models_support_is_dashed_and_said_to_be_unidentified():
    """Three models give a dashed line, seven a solid one, and the key says which is which."""
    many = scaling.scaling_table({"a": metrics_of({f"m{i}": 1e6 * 3**i for i in range(7)})})
    lines, keys = [], []
    for table in (TABLE, many):
        figure = drawn(figures.draw_cof, table)
        lines.append(figure.axes[0].lines[1].get_linestyle())
        keys.append({text.get_text() for text in figure.legends[0].get_texts()})

    assert lines == ["--", "-"]
    assert "linear in log ratio, not identified" in keys[0] - keys[1]
    assert "linear in log ratio" in keys[1] - keys[0]


def test_two_points_get_no_line():
    """A straight line through two points is no finding."""
    two = metrics_of(SIZES)
    del two["pairs"]["tiny_large"]
    ax = drawn(figures.draw_cof, scaling.scaling_table({"arith": two})).axes[0]

    assert len(ax.lines) == 2  # the points of two methods


def test_a_method_keeps_its_colour_where_another_is_missing():
    """Colours go by the methods of all panels, so panels can be compared."""
    bare = metrics_of(SIZES)
    for pair in bare["pairs"].values():
        del pair["cof"]["oracle"]
    figure = drawn(figures.draw_cof, scaling.scaling_table({"a": METRICS, "b": bare}))
    both, proxy_alone = figure.axes[0].containers, figure.axes[1].containers

    assert both[1].lines[0].get_color() == proxy_alone[0].lines[0].get_color()
    assert both[0].lines[0].get_color() != proxy_alone[0].lines[0].get_color()


def test_many_pairs_are_thinned_to_nine_from_the_closest_to_the_most_distant():
    """Seven models make 21 pairs; the axis label owns up to it."""
    metrics = metrics_of({f"m{i}": 1e6 * 3**i for i in range(7)})
    figure = drawn(figures.draw_frontier, metrics)
    titles = [ax.get_title(loc="left") for ax in figure.axes]

    assert len(titles) == 9
    assert titles[-1] == "m0_m6"
    assert figure.get_supxlabel().endswith("9 of 21 pairs")


def test_budgets_of_a_policy_are_joined_in_order_of_what_they_called():
    """Entropy at 10 and 20 % is one line; drafting, which has no call ratio, is absent."""
    figure = drawn(figures.draw_frontier, METRICS)
    curves = {tuple(container.lines[0].get_xdata()) for container in figure.axes[0].containers}
    keys = [text.get_text() for text in figure.legends[0].get_texts()]

    assert {(1.0,), (0.11, 0.22), (0.2,)} == curves
    assert keys == ["entropy", "random", "always", "oracle", "proxy"]
