"""The sandbox: programs that models wrote run away from the machine, within limits that the kernel keeps."""

import ast
import contextlib
import fcntl
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Literal, NamedTuple, get_args

from fsgen.errors import UserError
from fsgen.tasks.graders import sandbox_runner

Outcome = Literal["pass", "fail", "timeout", "memory", "error", "killed"]
OUTCOMES = get_args(Outcome)
# nothing of the grader's own; one order of sets, so that a program does the same every time
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
PYTHON = (sys.executable, "-s", "-S", "-P", "-B")  # the standard library alone
RESULT_BYTES = 1 << 16  # more than a result ever holds
DETAIL = 500  # characters


class Limits(NamedTuple):
    """What a program may use."""

    cpu_s: float = 5
    wall_s: float = 10
    memory_mb: int = 512
    processes: int = 8
    """Processes and threads at once."""


class ProgramResult(NamedTuple):
    """How a program with its tests ended."""

    outcome: Outcome
    """pass; fail: a test does not hold; error: an exception or exit; timeout: CPU or wall time; memory:
    the address space; killed: it ended without a result, by a signal or `os._exit`."""
    detail: str | None
    """The first test that does not hold, the exception, or how it ended."""


class Protections(NamedTuple):
    """What this machine grants a sandbox, as far as a program inside could not get around it."""

    isolated: bool
    """Whether it runs in user, pid, mount and network namespaces of its own."""
    bounded: bool
    """Whether the limit on processes binds."""
    offline: bool
    """Whether no connection leaves it."""
    confined: bool
    """Whether it can write nowhere but into its scratch folder."""

    def __str__(self) -> str:
        kept = ["own session, limits on CPU time, wall time, memory and file size, minimal environment"]
        kept += [said for holds, said in self._said() if holds]
        lost = [said for holds, said in self._said() if not holds]
        return ", ".join(kept) + (f"; NOT in force: {', '.join(lost)}" if lost else "")

    def missing(self) -> list[str]:
        """What is not in force, in words."""
        return [said for holds, said in self._said() if not holds]

    def _said(self) -> list[tuple[bool, str]]:
        return [
            (self.isolated, "own user and pid namespace"),
            (self.bounded, "limit on processes"),
            (self.offline, "no network"),
            (self.confined, "read-only file system with a scratch folder in memory"),
        ]


def run(program: str, tests: list[str], limits: Limits, protections: Protections) -> ProgramResult:
    """Run the program and then its tests, each a statement, in a sandbox of its own.

    What it prints is dropped, however much that is. Raises Complaint where the sandbox cannot be set
    up as `protections` says it can.
    """
    token = "t" + secrets.token_hex(16)
    given = json.dumps({"tests": [(test, _guard(test, token)) for test in tests], "token": token})
    result_r, result_w = os.pipe()
    files = [_in_memory(text) for text in (program, given)]
    asked = limits._asdict() | {"isolated": protections.isolated}
    # where it has no file system of its own, a folder on the disk has to do
    home = contextlib.nullcontext("/") if protections.isolated else tempfile.TemporaryDirectory()
    with home as scratch:
        if os.getuid() == 0 and not protections.isolated:
            os.chown(scratch, sandbox_runner.NOBODY, sandbox_runner.NOBODY)
        started = subprocess.Popen(
            [*PYTHON, sandbox_runner.__file__, *map(str, [*files, result_w]), json.dumps(asked)],
            env=ENVIRONMENT,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[*files, result_w],
            start_new_session=True,
        )
        for fd in (*files, result_w):
            os.close(fd)
        try:
            said, is_late = _read(result_r, time.monotonic() + limits.wall_s)
        finally:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            os.close(result_r)
    late = ProgramResult("timeout", f"wall time above {limits.wall_s:g} s")
    return _understand(said, token) or (
        late if is_late else ProgramResult("killed", "ended without a result")
    )


def protections(weak: bool) -> Protections:
    """What this machine grants, each part tried before it is claimed.

    Raises Complaint where something is not granted, unless `weak`.
    """
    hoped = Protections(True, True, True, True)
    try:
        found = _try(hoped)
    except UserError as refused:
        if not weak:
            raise UserError(f"{refused}; set 'sandbox: weak' to run code without namespaces.") from None
        found = _try(Protections(False, True, True, True))
    if found.missing() and not weak:
        raise UserError(
            f"This machine should grant a sandbox {', '.join(found.missing())}, and does not; "
            "set 'sandbox: weak' to run code without."
        )
    return found


def _try(hoped: Protections) -> Protections:
    limits = Limits(cpu_s=2, wall_s=5, processes=8)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        os.chmod(folder, 0o777)
        port = listener.getsockname()[1]
        answers = [
            run(program, [], limits, hoped).outcome == "error"
            for program in (
                FORKS.format(count=limits.processes + 4),
                f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
                f"open({folder + '/probe'!r}, 'w')",
            )
        ]
    return Protections(hoped.isolated, *answers)


# a bounded loop: as many children as are allowed, and a few more, that only wait to be ended
FORKS = """
import os, signal
for _ in range({count}):
    if not os.fork():
        signal.pause()
os.killpg(0, signal.SIGKILL)
"""


def _guard(test: str, name: str) -> str:
    """The test with every == asked of `name`, `harness.same`; as it is where it does not parse."""
    try:
        return ast.unparse(_Equal(name).visit(ast.parse(test)))
    except SyntaxError:
        return test


class _Equal(ast.NodeTransformer):
    def __init__(self, name: str):
        self.name = name

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) > 1 or not isinstance(node.ops[0], ast.Eq):
            return node
        return ast.Call(ast.Name(self.name), [node.left, *node.comparators], [])


def _in_memory(text: str) -> int:
    """A file that no program can change."""
    fd = os.memfd_create("given", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(os.dup(fd), "wb") as file:
        file.write(text.encode(errors="surrogatepass"))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def _read(fd: int, deadline: float) -> tuple[bytes, bool]:
    """What was said until the end or the deadline, or too much; whether it was the deadline."""
    said, poll = b"", select.poll()
    poll.register(fd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(1000 * left):
            part = os.read(fd, 1 << 12)
            if not part or len(said) > RESULT_BYTES:
                return said, False
            said += part
    return said, True


def _understand(said: bytes, token: str) -> ProgramResult | None:
    """The first outcome that was told; a pass counts only with the token. None where none was."""
    lines = [told for line in said.splitlines() if (told := _parse(line))]
    if lines[:1] and "refused" in lines[0]:
        raise UserError(f"The sandbox could not be set up: {lines[0]['refused']}")
    for told in lines:
        outcome, detail = told.get("outcome"), told.get("detail")
        if outcome in OUTCOMES and (outcome != "pass" or told.get("token") == token):
            return ProgramResult(outcome, None if detail is None else str(detail)[:DETAIL])
    return None


def _parse(line: bytes) -> dict | None:
    """An object, if the line is one: a program can write what it likes where the result is read."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None
