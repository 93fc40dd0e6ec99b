"""`fsgen show` and `fsgen generate`: show one prompt, or generate a text with a pair."""

import sys
from typing import Annotated

import typer
from rich.text import Text

from fsgen.cli.app import Dataset, Pair, name_or_first, screen
from fsgen.config.load import load_settings
from fsgen.errors import UserError


def show(
    pair: Pair,
    prompt_id: Annotated[str, typer.Argument(help="A prompt, as the view prompts names it.")],
    policy: Annotated[str | None, typer.Option(help="Mark the tokens of this policy's text.")] = None,
    pos: Annotated[
        int | None, typer.Option(min=0, help="With a policy: both models' ten most likely tokens there.")
    ] = None,
):
    """Show one prompt: texts, policies, and any token.

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


def generate(
    words: Annotated[
        str | None, typer.Argument(help="What to ask; without it, each line of the input is asked.")
    ] = None,
    prompt_id: Annotated[str | None, typer.Option(help="Ask a prompt of the dataset instead.")] = None,
    pair: Annotated[str | None, typer.Option(help="A key of pairs in params.yaml; else its first.")] = None,
    policy: Annotated[str, typer.Option(help="Any policy, in params.yaml or not.")] = "oracle+entropy@20",
    dataset: Dataset = None,
):
    """Generate one text with a pair under a policy; tokens are marked by the model that chose them.

    Example: `fsgen generate --pair arith-23k-451k --policy oracle+entropy@20 --prompt-id arith-00152`
    """
    from fsgen.decoding import pair_session  # torch

    settings = load_settings()
    session = pair_session.open_session(
        settings, name_or_first(pair, settings, "pairs"), policy, name_or_first(dataset, settings, "datasets")
    )
    if prompt_id is not None:
        _print_text(session, pair_session.dataset_prompt(session, prompt_id))
        return
    for question in [words] if words is not None else iter(_read_line, ""):
        _print_text(session, pair_session.custom_prompt(session, question))


def _read_line() -> str:
    """The next line of the input; empty at its end."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return ""


def _print_text(session, prompt) -> None:
    """Print the session's text on a prompt, a frame of one row, as its tokens are chosen, then its counts."""
    from fsgen.decoding import interactive
    from fsgen.report import terminal

    use, tokens = interactive.LargeModelUse(), []
    for piece, token in interactive.generate_pieces(session, prompt, use):
        tokens.append(token)
        rows = [{"piece": piece, "called": token.called, "mismatch": token.is_changed}]
        screen.print(terminal.mark(rows, ""), end="")
    screen.print(Text(f"\n{terminal.LEGEND}\n{interactive.summarize(tokens, use)}", style="dim"))
