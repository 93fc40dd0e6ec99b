"""`fsgen show` and `fsgen generate`: look at one prompt, or watch a pair write."""

import sys
from typing import Annotated

import typer
from rich.text import Text

from fsgen.cli.app import Dataset, Pair, app, or_first, screen
from fsgen.config.load import load_settings
from fsgen.errors import UserError


@app.command()
def show(
    pair: Pair,
    prompt_id: Annotated[str, typer.Argument(help="A prompt, as the view prompts names it.")],
    policy: Annotated[str | None, typer.Option(help="Mark the tokens of this policy's text.")] = None,
    pos: Annotated[
        int | None, typer.Option(min=0, help="With a policy: both models' ten likeliest tokens there.")
    ] = None,
):
    """Look at one prompt, down to the token.

    Example: `fsgen show arith-23k-451k arith-00152 --policy oracle+entropy@20 --pos 6`
    """
    from fsgen.report import terminal

    if pos is not None and policy is None:
        raise UserError("--pos is a place in a policy's text; name it with --policy.")
    if policy is None:
        screen.print(terminal.show_prompt(pair, prompt_id))
    elif pos is None:
        screen.print(terminal.show_policy(pair, prompt_id, policy))
    else:
        screen.print(terminal.show_token(pair, prompt_id, policy, pos))


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
    from fsgen.decoding import interactive  # torch, as below

    loaded = load_settings()
    duet = interactive.open_session(
        loaded, or_first(pair, loaded, "pairs"), policy, or_first(dataset, loaded, "datasets")
    )
    if prompt_id is not None:
        _perform(duet, interactive.known_prompt(duet, prompt_id))
        return
    for asked in [words] if words is not None else iter(_listen, ""):
        _perform(duet, interactive.own_words(duet, asked))


def _listen() -> str:
    """The next line that a person asks; nothing at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return ""


def _perform(duet, asked) -> None:
    from fsgen.decoding import interactive
    from fsgen.report import terminal

    tally, spoken = interactive.LargeModelUse(), []
    for piece, one in interactive.generate_pieces(duet, asked, tally):
        spoken.append(one)
        rows = [{"piece": piece, "called": one.called, "mismatch": one.is_changed}]
        screen.print(terminal.mark(rows, ""), end="")
    screen.print(Text(f"\n{terminal.LEGEND}\n{interactive.sum_up(spoken, tally)}", style="dim"))
