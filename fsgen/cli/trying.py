"""Commands that run models, or say what that will cost."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.text import Text

from fsgen import console, settings
from fsgen.cli.app import Dataset, Pair, app, or_first, screen
from fsgen.typed import look_up, read_yaml


@app.command()
def check(
    params: Annotated[
        Path | None, typer.Argument(help="A params file that is a plan: its tokenizers are not opened.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="Estimate hours on h100, a100, or here, measured.")] = None,
):
    """Validate params.yaml as a whole, and say what it will cost; opens tokenizers, no weights.

    Example: `fsgen check profiles/qwen15.yaml --on h100`
    """
    from fsgen import estimates

    loaded, machine = settings.load(params or "params.yaml"), _machine(on) if on else None
    if params is None:
        _check_tokenizers(loaded)
    counts = ", ".join(
        f"{len(getattr(loaded, kind))} {kind}" for kind in ("datasets", "models", "pairs", "policies")
    )
    print(f"{params or 'params.yaml'} holds: {counts}.")
    print("\n".join(estimates.tell(loaded, machine)))


def _machine(name: str):
    """The machine of that name; `here` is this one, measured."""
    from fsgen import estimates

    if name != "here":
        return look_up(estimates.MACHINES, name, "the machines (and 'here')")
    from fsgen import pace  # torch

    return pace.measure_machine()


def _check_tokenizers(loaded: settings.Settings) -> None:
    """Complaint where a pair cannot be fused, as far as its models have been trained."""
    from fsgen import checkpoints  # transformers takes seconds, and few commands need it

    trained = {name for name, model in loaded.models.items() if checkpoints.is_there(model)}
    for pair, entry in loaded.pairs.items():
        if trained.issuperset(entry.members().values()):
            checkpoints.check_tokenizers(loaded, pair)


@app.command()
def generate(
    words: Annotated[
        str | None, typer.Argument(help="What to ask; without it, each line of the input is asked.")
    ] = None,
    prompt_id: Annotated[str | None, typer.Option(help="Ask a prompt of the dataset instead.")] = None,
    pair: Annotated[str | None, typer.Option(help="A key of pairs in params.yaml; else its first.")] = None,
    policy: Annotated[str, typer.Option(help="Any policy, in params.yaml or not.")] = "oracle+entropy@20",
    dataset: Dataset = None,
):
    """Let a pair write one text under a policy, token by token, marked by who chose it.

    Example: `fsgen generate --pair arith-23k-451k --policy oracle+entropy@20 --prompt-id arith-00152`
    """
    from fsgen import generation  # torch, as below

    loaded = settings.load()
    duet = generation.open_duet(
        loaded, or_first(pair, loaded, "pairs"), policy, or_first(dataset, loaded, "datasets")
    )
    if prompt_id is not None:
        _perform(duet, generation.known_prompt(duet, prompt_id))
        return
    for asked in [words] if words is not None else iter(_listen, ""):
        _perform(duet, generation.own_words(duet, asked))


def _listen() -> str:
    """The next line that a person asks; nothing at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return ""


def _perform(duet, asked) -> None:
    from fsgen import generation, showing

    tally, spoken = generation.Tally(), []
    for piece, one in generation.spell(duet, asked, tally):
        spoken.append(one)
        rows = [{"piece": piece, "called": one.called, "mismatch": one.is_changed}]
        screen.print(showing.mark(rows, ""), end="")
    screen.print(Text(f"\n{showing.LEGEND}\n{generation.sum_up(spoken, tally)}", style="dim"))


@app.command()
def run(
    large: Annotated[str, typer.Option(help="Hub id (or id@commit), or a checkpoint's folder.")],
    small: Annotated[str, typer.Option(help="The same.")],
    dataset: Annotated[str, typer.Option(help="A key of datasets in params.yaml, or a task.")],
    tuned: Annotated[str | None, typer.Option(help="The small model after fine-tuning, for proxy.")] = None,
    data: Annotated[str | None, typer.Option(help="Local data of the task; else the hub's.")] = None,
    method: Annotated[
        str, typer.Option(help="A rule or a method of params.yaml; speculative@K drafts.")
    ] = "oracle",
    router: Annotated[
        str | None, typer.Option(help="With its budget, as in entropy@20; else always.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Prompts, calibration and test together.")] = 100,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Of a turn, for a task that params.yaml does not name.")
    ] = 256,
    prompt: Annotated[str, typer.Option(help="How models are asked: plain or chat.")] = "plain",
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution", help="For mbpp.")] = False,
):
    """Run one combination without editing params.yaml, in runs/.

    Example: `fsgen run --large data/family/base-451k --small data/family/base-23k --dataset arith --limit 32`
    """
    from fsgen import estimates, trial
    from fsgen.report import headline

    wish = trial.Wish(
        large=large,
        small=small,
        tuned=tuned,
        dataset=dataset,
        data=data,
        method=method,
        router=router,
        limit=limit,
        max_new_tokens=max_new_tokens,
        prompt=prompt,
        allow_code_execution=allow_code_execution,
    )
    home = trial.run(wish)
    content = json.loads((home / "metrics" / f"{dataset}.json").read_text())
    print(f"{headline.markdown(dataset, content)}\n\n{headline.policies(content)}\n")
    sizes = {name: told["total_parameters"] for name, told in content["models"].items()}
    for sentence in estimates.doubt_sizes(content["pairs"], sizes):
        console.warn(sentence)
    print(_tell_merging(trial.moving_in(read_yaml(home / "params.yaml"))))


def _tell_merging(wanted: dict) -> str:
    """How to keep the pair: the lines of these sections that the params.yaml here lacks."""
    here = read_yaml(Path("params.yaml")) if Path("params.yaml").is_file() else {}
    lacking = {section: _lacking(section, own, here.get(section) or {}) for section, own in wanted.items()}
    lacking = {section: own for section, own in lacking.items() if own}
    if not lacking:
        return "params.yaml holds this pair already."
    lines = yaml.safe_dump(lacking, sort_keys=False, default_flow_style=None, width=110)
    return f"To keep the pair, merge these lines into the sections of params.yaml:\n\n{lines}"


def _lacking(section: str, wanted: dict | list, known: dict | list) -> dict | list:
    """What is wanted of a section and not known; a known dataset keeps its own limit and path."""
    if isinstance(wanted, list):
        return [entry for entry in wanted if entry not in known]
    return {
        name: entry
        for name, entry in wanted.items()
        if name not in known or (section != "datasets" and (known[name] or {}) != entry)
    }


@app.command()
def speedup(
    pair: Pair, dataset: Dataset = None, prompts: Annotated[int, typer.Option(min=1, help="To time on.")] = 4
):
    """Time both models of a pair on this machine, and say what drafting would gain.

    Example: `fsgen speedup arith-23k-451k`
    """
    from fsgen import pace

    loaded = settings.load()
    print("\n".join(pace.tell(loaded, pair, or_first(dataset, loaded, "datasets"), prompts)))


@app.command()
def stability(
    model: Annotated[str, typer.Argument(help="A key of models in params.yaml.")],
    dataset: Dataset = None,
    prompts: Annotated[int, typer.Option(min=1, help="To write on.")] = 8,
):
    """Write prompts one by one and side by side, and say where a model's texts part.

    Example: `fsgen stability arith-87k --prompts 4`
    """
    from fsgen import stability as steadiness

    loaded = settings.load()
    print("\n".join(steadiness.tell(loaded, model, or_first(dataset, loaded, "datasets"), prompts)))
