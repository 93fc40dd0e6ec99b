"""The page: it tells what the tables hold, stays small, and works in a real browser without a network."""

import base64
import copy
import gzip
import html
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from fsgen.report import explorer, page, report, summary
from fsgen.report.figures import gallery
from fsgen.tables import files, lake, parquet
from tests.report import conftest as chromium

BINARY = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def explored(finished) -> dict:
    return explorer.explore(finished)


def walk(tree: dict, policy: str) -> list[int]:
    """Nodes of a policy's text, from the empty one on."""
    path, node = [], tree["policies"][policy]["leaf"]
    while node >= 0:
        path.insert(0, node)
        node = tree["parent"][node]
    return path


def test_every_text_of_its_prompts_is_there(finished, explored):
    """Tokens, calls and scores of every policy, as the rollout wrote them."""
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").sort("pos")
    dataset = explored["datasets"]["toy"]
    tests = parquet.read("data/prompts/toy.parquet").filter(split="test").sort("order")
    assert [p["id"] for p in dataset["prompts"]] == tests["prompt_id"].head(3).to_list()
    for (policy, name), rows in rollout_rows.partition_by("policy", "prompt_id", as_dict=True).items():
        if name not in tests["prompt_id"].head(3):
            continue
        tree = dataset["pairs"]["duo"]["texts"][name]
        path, subset = walk(tree, policy), tree["policies"][policy]
        assert [tree["token"][node] for node in path[1:]] == rows["token_id"].to_list()
        bits = [int(mark, 16) for mark in subset["marks"]]
        assert [bool(b & explorer.CALLED) for b in bits] == rows["called"].to_list()
        assert [bool(b & explorer.MISMATCH) for b in bits] == rows["mismatch"].to_list()
        assert [not b & explorer.OUTSIDE for b in bits] == rows["in_answer"].to_list()
        method = dataset["pairs"]["duo"]["policies"][policy]["method"]
        assert [tree["fused"][method][node] for node in path[:-1]] == rows["fused_id"].to_list()
        if subset["scores"] is not None:
            shown = [score / explorer.SCALE for score in subset["scores"]]
            assert shown == pytest.approx(rows["score"].to_list(), abs=1e-4)


def test_what_models_say_there_is_what_they_said_when_they_wrote(finished, explored):
    """The default model's first token is the default token everywhere, with its recorded entropy."""
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").sort("pos")
    pair = explored["datasets"]["toy"]["pairs"]["duo"]
    checked = 0
    for (policy, name), rows in rollout_rows.partition_by("policy", "prompt_id", as_dict=True).items():
        if name not in pair["texts"]:
            continue
        tree = pair["texts"][name]
        default_role = pair["default_roles"][pair["policies"][policy]["method"]]
        for node, row in zip(walk(tree, policy), rows.iter_rows(named=True), strict=False):
            message = tree["says"][default_role][node]
            assert message[1] == row["default_id"]
            assert message[0] / explorer.SCALE == pytest.approx(row["entropy"], abs=2e-4)
            chances = message[2::2]
            assert chances == sorted(chances, reverse=True)
            assert len(chances) == 10
            if pair["policies"][policy]["method"] == "oracle":
                assert tree["says"]["large"][node][1] == row["fused_id"]
            checked += 1
    assert checked > 500


def test_every_id_is_spelt(explored):
    """No token of the page without its words."""
    pieces = explored["pieces"]["large"]
    for tree in explored["datasets"]["toy"]["pairs"]["duo"]["texts"].values():
        assert set(explorer.token_ids(tree)) <= pieces.keys()


def test_texts_are_read_once(finished):
    """A text that several policies wrote stands once in the close-ups, with all their names."""
    logits = lake.query("select distinct reader, prompt_id, policies from rollout_logits")
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").sort("pos")
    shown = logits["prompt_id"].unique().to_list()
    texts = (
        rollout_rows.filter(pl.col("prompt_id").is_in(shown)).group_by("policy", "prompt_id").agg("token_id")
    )
    distinct = texts.select("prompt_id", pl.col("token_id").cast(pl.List(pl.String)).list.join(" ")).unique()
    assert len(logits.filter(reader="large")) == len(distinct) < len(texts)
    assert logits.filter(reader="small")["policies"].list.len().sum() == len(texts)


def build(finished, explored, figures=()) -> str:
    numbers = {"toy": files.read_metrics(Path("metrics/toy.json"))}
    return page.build(numbers, list(figures), copy.deepcopy(explored))


def unpacked(text: str) -> dict:
    packed = re.search(r'<script id="explored"[^>]*>([^<]*)</script>', text).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_the_same_page_twice_and_nothing_from_elsewhere(finished, explored):
    """Equal bytes; no address but those of standards, no placeholder left."""
    one, two = build(finished, explored), build(finished, explored)
    assert one == two
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|@import|url\(|https?://", one)
    assert unpacked(one) == json.loads(json.dumps(explored))


def test_prompts_are_left_out_until_it_is_small_enough(finished, explored, monkeypatch):
    """The last ones first, at least one stays, and the page says how many it shows."""
    whole = len(build(finished, explored).encode())
    monkeypatch.setattr(page, "LIMIT", whole - 1)
    text = build(finished, explored)
    kept = unpacked(text)["datasets"]["toy"]
    assert [p["id"] for p in kept["prompts"]] == [p["id"] for p in explored["datasets"]["toy"]["prompts"]][:2]
    assert set(kept["pairs"]["duo"]["texts"]) == {p["id"] for p in kept["prompts"]}
    assert "2 test prompts of toy" in text
    monkeypatch.setattr(page, "LIMIT", 1)
    assert len(unpacked(build(finished, explored))["datasets"]["toy"]["prompts"]) == 1


def test_the_summary_is_the_metrics(finished, explored):
    """Every cell of the printed table stands in the page."""
    text = html.unescape(build(finished, explored))
    head, rows = summary.table(files.read_metrics(Path("metrics/toy.json")))
    for cell in [*head, *rows[0]]:
        assert f">{cell}<" in text


def test_names_cannot_break_the_page(finished, explored):
    """What a model or a person calls something is text."""
    numbers = {"<b>toy": files.read_metrics(Path("metrics/toy.json"))}
    text = page.build(numbers, [], explored)
    assert "<b>toy" not in text
    assert "&lt;b&gt;toy" in text


@pytest.fixture(scope="module")
def browser():
    if BINARY is None:
        pytest.skip("no Chromium here (Debian's package chromium)")
    with chromium.started(BINARY) as one:
        yield one


@pytest.fixture
def shown(finished, browser) -> str:
    """Address of the whole report of the finished run."""
    if not (report.PLOTS / "report.html").is_file():
        report.write_report(finished)
    browser.events.clear()
    return (report.PLOTS / "report.html").resolve().as_uri()


SELECTED = "document.querySelector('[aria-selected=true]')"
CHOSEN = "Object.fromEntries(new FormData(document.getElementById('choose')))"


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True), (320, False)])
def test_it_opens_without_a_complaint_and_does_not_scroll_sideways(shown, browser, width, dark):
    """On a desk and on a phone, by day and by night; every figure is drawn."""
    browser.open(shown, width, 900, dark)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    images = "[...document.querySelectorAll('figure img')]"
    assert browser.run(f"Promise.all({images}.map(i => i.decode())).then(() => {images}.length)") >= 10
    assert browser.run(f"{images}.every(i => i.naturalWidth > 100)")
    assert browser.complaints() == []


def test_dark_is_dark(shown, browser):
    """Paper and ink change places."""
    result = []
    for dark in (False, True):
        browser.open(shown, 800, 900, dark)
        colour = browser.run("getComputedStyle(document.documentElement).backgroundColor")
        result.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
    assert result[0] > 700
    assert result[1] < 120


def test_the_explorer_shows_the_token_that_is_chosen(shown, browser, finished, explored):
    """By choice, by click and by key: text, both models' ten, the fused token, the score."""
    browser.open(shown, 1200, 900)
    select = "document.getElementById('choose').elements.policy"
    change = "dispatchEvent(new Event('change', {bubbles: true}))"
    browser.run(f"{select}.value = 'oracle+entropy@20'; {select}.{change}")
    name = browser.run(f"{CHOSEN}.prompt")
    rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").sort("pos")
    rows = rows.filter(policy="oracle+entropy@20", prompt_id=name)
    words = explored["pieces"]["large"]
    written = [words[i] for i in rows["token_id"]]
    assert browser.run("[...document.querySelectorAll('#text .token')].map(t => t.textContent)") == written
    changed = (rows["called"] & rows["mismatch"]).arg_true().to_list()
    assert browser.run("document.querySelectorAll('#text .changed').length") == len(changed)

    browser.run("document.querySelectorAll('#text .token')[2].click()")
    detail = browser.run("document.getElementById('detail').innerText")
    assert f"Token 2: {written[2]}" in detail
    assert f"{rows['score'][2]:.3f}"[:4] in detail
    assert browser.run("document.querySelectorAll('#detail ol').length") == 3
    assert browser.run("document.querySelectorAll('#detail ol.large li').length") == 10
    assert browser.run("document.querySelectorAll('#detail ol.small li').length") == 10

    browser.run("document.querySelectorAll('#text .token')[1].dispatchEvent(new Event('mouseenter'))")
    assert "Token 1:" in browser.run("document.querySelector('#detail h3').innerText")
    browser.run("document.getElementById('text').dispatchEvent(new Event('mouseleave'))")
    assert "Token 2:" in browser.run("document.querySelector('#detail h3').innerText")

    browser.press("ArrowRight")
    assert "Token 3:" in browser.run("document.querySelector('#detail h3').innerText")
    browser.press("Home")
    assert "Token 0:" in browser.run("document.querySelector('#detail h3').innerText")
    assert browser.run(f"document.activeElement === {SELECTED}")
    browser.press("ArrowLeft")
    assert "Token 0:" in browser.run("document.querySelector('#detail h3').innerText")
    assert browser.complaints() == []


def test_every_choice_can_be_shown(shown, browser, explored):
    """No pair, prompt or policy breaks it."""
    browser.open(shown, 1200, 900)
    script = """(() => {
      const form = document.getElementById("choose"), seen = [];
      for (const prompt of [...form.elements.prompt.options])
        for (const policy of [...form.elements.policy.options]) {
          form.elements.prompt.value = prompt.value; form.elements.policy.value = policy.value;
          form.dispatchEvent(new Event("change"));
          seen.push(document.querySelectorAll("#text .token").length);
        }
      return seen;
    })()"""
    counts = browser.run(script)
    pair = explored["datasets"]["toy"]["pairs"]["duo"]
    assert len(counts) == len(pair["texts"]) * len(pair["policies"])
    assert min(counts) > 0
    assert browser.complaints() == []


def test_a_link_leads_to_a_token(shown, browser):
    """What the address says is what is shown, so a surprising token can be sent to a colleague."""
    browser.open(shown, 1200, 900)
    wanted = browser.run(f"{CHOSEN}.prompt")
    browser.open(f"{shown}#explorer?prompt={wanted}&policy=proxy%2Balways&token=1", 1200, 900)
    assert browser.run(f"{CHOSEN}.policy") == "proxy+always"
    assert "Token 1:" in browser.run("document.querySelector('#detail h3').innerText")


def test_the_default_page_is_under_five_megabytes():
    """The committed one, of the default run."""
    path = Path(__file__).parents[2] / "plots" / "report.html"
    assert path.stat().st_size < page.LIMIT
    assert path.read_text().count("<figure ") >= len(gallery.FIGURES)
