"""Errors that a user can act on, each one sentence."""

import difflib
import errno
import typing


class UserError(Exception):
    """An error that the user can fix, in one sentence: the thing, what was expected and got, the remedy."""


def lookup_or_suggest(table: typing.Mapping, name: object, where: str) -> typing.Any:
    """The entry of that name; raises UserError where there is none, with the nearest name.

    `where` says what was searched, as in "the methods" or "the keys of dump".
    """
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(str(name), [str(key) for key in table], n=1)
    hint = (
        f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(map(str, table)) or 'none'}."
    )
    raise UserError(f"'{name}' is not among {where}; {hint}")


def refuse_full_disk(error: Exception, thing: str) -> None:
    """Raise UserError if the error is that of a full disk; `thing` is what was to be written."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        raise UserError(
            f"The disk is full ({thing}); "
            "free some space and run the same command again, finished shards are kept."
        ) from error
