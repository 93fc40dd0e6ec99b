"""The sandbox: runs programs that models wrote in isolation, within limits that the kernel enforces."""

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
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

from fsgen.errors import UserError
from fsgen.tasks.graders import sandbox_runner

Outcome = Literal["pass", "fail", "timeout", "memory", "error", "killed"]
OUTCOMES = get_args(Outcome)
# no variable of the grader; a fixed hash seed, so that sets have one order and a program repeats itself
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
PYTHON = (sys.executable, "-s", "-S", "-P", "-B")  # the standard library alone
MAX_OUTPUT_BYTES = 1 << 16  # more than a result ever holds
MAX_DETAIL_CHARACTERS = 500


class Limits(NamedTuple):
    """The resources that a program may use."""

    cpu_s: float = 5
    wall_s: float = 10
    memory_mb: int = 512
    processes: int = 8
    """Processes and threads at one time."""


class ProgramResult(NamedTuple):
    """How a program with its tests ended."""

    outcome: Outcome
    """pass; fail: a test does not hold; error: an exception or exit; timeout: CPU or wall time; memory:
    the address space; killed: it ended without a result, by a signal or `os._exit`."""
    detail: str | None
    """The first test that does not hold, the exception, or how the program ended."""


class Protections(NamedTuple):
    """The protections of a sandbox on this machine that a program inside cannot bypass."""

    isolated: bool
    """Whether it runs in its own user, pid, mount and network namespaces."""
    bounded: bool
    """Whether the limit on processes is enforced."""
    offline: bool
    """Whether it has no network."""
    confined: bool
    """Whether it can write only into its scratch folder."""

    def __str__(self) -> str:
        in_force = ["own session, limits on CPU time, wall time, memory and file size, minimal environment"]
        in_force += [words for holds, words in self._descriptions() if holds]
        missing = self.missing()
        return ", ".join(in_force) + (f"; NOT in force: {', '.join(missing)}" if missing else "")

    def missing(self) -> list[str]:
        """The protections that are not in force, in words."""
        return [words for holds, words in self._descriptions() if not holds]

    def _descriptions(self) -> list[tuple[bool, str]]:
        return [
            (self.isolated, "own user and pid namespace"),
            (self.bounded, "limit on processes"),
            (self.offline, "no network"),
            (self.confined, "read-only file system with a scratch folder in memory"),
        ]


class _Output(NamedTuple):
    """The bytes of the result pipe."""

    content: bytes
    is_late: bool
    """Whether reading ended at the deadline."""


def run(program: str, tests: list[str], limits: Limits, protections: Protections) -> ProgramResult:
    """Run the program and then its tests, each a statement, in a new sandbox.

    Anything that the program prints is dropped. Raises UserError if the sandbox cannot be set up with these
    protections.
    """
    token = "t" + secrets.token_hex(16)
    guarded_tests = [(test, _guard(test, token)) for test in tests]
    test_input = json.dumps({"tests": guarded_tests, "token": token})
    output = _execute(program, test_input, limits, protections.isolated)
    result = _parse_result(output.content, token)
    if result is None and output.is_late:
        return ProgramResult("timeout", f"wall time above {limits.wall_s:g} s")
    return result or ProgramResult("killed", "ended without a result")


def _execute(program: str, test_input: str, limits: Limits, isolated: bool) -> _Output:
    """Start the runner, read its result until the wall time is over, and kill all that it started."""
    result_r, result_w = os.pipe()
    inputs = [_in_memory(text) for text in (program, test_input)]
    with _scratch_folder(isolated) as folder:
        runner = _start_runner([*inputs, result_w], limits._asdict() | {"isolated": isolated}, folder)
        for fd in (*inputs, result_w):
            os.close(fd)
        try:
            return _read(result_r, time.monotonic() + limits.wall_s)
        finally:
            os.killpg(runner.pid, signal.SIGKILL)
            runner.wait()
            os.close(result_r)


@contextlib.contextmanager
def _scratch_folder(isolated: bool) -> Iterator[str]:
    """The working directory of the runner: without its own file system, a temporary folder on the disk."""
    if isolated:
        yield "/"
        return
    with tempfile.TemporaryDirectory() as folder:
        if os.getuid() == 0:
            os.chown(folder, sandbox_runner.NOBODY, sandbox_runner.NOBODY)
        yield folder


def _start_runner(fds: list[int], limits: dict, folder: str) -> subprocess.Popen:
    """Start sandbox_runner.py in its own session; `fds` are the program, its tests and the result."""
    return subprocess.Popen(
        [*PYTHON, sandbox_runner.__file__, *map(str, fds), json.dumps(limits)],
        env=ENVIRONMENT,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=fds,
        start_new_session=True,
    )


def protections(weak: bool) -> Protections:
    """The protections that this machine grants; each one is tried first.

    Raises UserError if one is not granted, unless `weak`.
    """
    try:
        granted = _probe(isolated=True)
    except UserError as refused:
        if not weak:
            raise UserError(f"{refused}; set 'sandbox: weak' to run code without namespaces.") from None
        granted = _probe(isolated=False)
    if granted.missing() and not weak:
        raise UserError(
            f"This machine should grant a sandbox {', '.join(granted.missing())}, and does not; "
            "set 'sandbox: weak' to run code without."
        )
    return granted


def _probe(isolated: bool) -> Protections:
    """The protections that stop a program which forks, connects or writes; UserError without a sandbox."""
    limits = Limits(cpu_s=2, wall_s=5, processes=8)
    requested = Protections(isolated, bounded=True, offline=True, confined=True)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        os.chmod(folder, 0o777)
        port = listener.getsockname()[1]
        programs = (
            FORKS.format(count=limits.processes + 4),
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
            f"open({folder + '/probe'!r}, 'w')",
        )
        is_stopped = [run(program, [], limits, requested).outcome == "error" for program in programs]
    return Protections(isolated, *is_stopped)


# a bounded loop: as many children as are allowed, and a few more, that only wait for a signal
FORKS = """
import os, signal
for _ in range({count}):
    if not os.fork():
        signal.pause()
os.killpg(0, signal.SIGKILL)
"""


def _guard(test: str, name: str) -> str:
    """The test with every == as a call of `name` (`sandbox_runner.same`); unchanged if it does not parse."""
    try:
        return ast.unparse(_EqualsToCall(name).visit(ast.parse(test)))
    except SyntaxError:
        return test


class _EqualsToCall(ast.NodeTransformer):
    """Replaces `left == right` by `name(left, right)`."""

    def __init__(self, name: str):
        self.name = name

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) > 1 or not isinstance(node.ops[0], ast.Eq):
            return node
        return ast.Call(ast.Name(self.name), [node.left, *node.comparators], [])


def _in_memory(text: str) -> int:
    """File descriptor of a sealed file in memory, which no program can change."""
    fd = os.memfd_create("given", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(os.dup(fd), "wb") as file:
        file.write(text.encode(errors="surrogatepass"))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def _read(fd: int, deadline: float) -> _Output:
    """What the pipe holds until its end, the deadline, or too many bytes."""
    content, poll = b"", select.poll()
    poll.register(fd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(1000 * left):
            part = os.read(fd, 1 << 12)
            if not part or len(content) > MAX_OUTPUT_BYTES:
                return _Output(content, is_late=False)
            content += part
    return _Output(content, is_late=True)


def _parse_result(output: bytes, token: str) -> ProgramResult | None:
    """The first outcome in the output; a pass counts only with the token. None if there is none."""
    reports = [report for line in output.splitlines() if (report := _parse_line(line))]
    if reports and "refused" in reports[0]:
        raise UserError(f"The sandbox could not be set up: {reports[0]['refused']}")
    for report in reports:
        outcome, detail = report.get("outcome"), report.get("detail")
        if outcome in OUTCOMES and (outcome != "pass" or report.get("token") == token):
            return ProgramResult(outcome, None if detail is None else str(detail)[:MAX_DETAIL_CHARACTERS])
    return None


def _parse_line(line: bytes) -> dict | None:
    """The JSON object of a line, if it is one: a program can write anything into the result pipe."""
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) else None
