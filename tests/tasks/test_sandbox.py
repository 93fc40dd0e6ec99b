"""The sandbox: programs end as they should, in time, and leave the grader and the machine as they were."""

import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fsgen.errors import UserError
from fsgen.tasks.graders import sandbox, sandbox_runner
from fsgen.tasks.graders.sandbox import Limits, ProgramResult, Protections

QUICK = Limits(cpu_s=1, wall_s=3, memory_mb=128)
LATE_S = 1.0  # how much later than its limit a program may end
RIGHT = "def add(a, b): return a + b"
TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]
pytestmark = pytest.mark.long  # programs run into their limits


@pytest.fixture(scope="module")
def granted() -> Protections:
    """What this machine grants; skips where that is not the whole sandbox."""
    try:
        return sandbox.protections(weak=False)
    except UserError as refused:
        pytest.skip(f"no sandbox here: {refused}")


def ran(program: str, tests: list[str], granted: Protections, limits: Limits = QUICK) -> ProgramResult:
    """The outcome, which has to come within the limit and a second."""
    begun = time.monotonic()
    result = sandbox.run(program, tests, limits, granted)
    assert time.monotonic() - begun < limits.wall_s + LATE_S
    return result


# program, tests, outcome, what its detail says
ORDINARY = [
    (RIGHT, TESTS, "pass", None),
    (RIGHT, [], "pass", None),
    ("import math, heapq, re, array, cmath, bisect, datetime", ["assert math.gcd(4, 6) == 2"], "pass", None),
    ("class Node:\n    pass\nroot = Node()", ["assert root == root"], "pass", None),
    ("from dataclasses import *\n@dataclass\nclass P:\n    x: int", ["assert P(1) == P(1)"], "pass", None),
    ("d = {'a': 1}", ["assert d.keys() == {'a'}", "assert d == dict(a=1)"], "pass", None),
    ("if __name__ == '__main__':\n    input('how many?')", [], "pass", None),
    ("print('x' * 10_000_000)\n" + RIGHT, TESTS, "pass", None),
    ("open('note', 'w').write('x')", ["assert open('note').read() == 'x'"], "pass", None),
    ("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()", [], "pass", None),
    ("name = 'Zoë \U0001f600'", ["assert name == 'Zoë \U0001f600'"], "pass", None),
    ("def add(a, b): return a - b", TESTS, "fail", "assert add(1, 2) == 3"),
    ("def add(a, b): return 3", TESTS, "fail", "assert add(-1, 1) == 0"),
    ("def plus(a, b): return a + b", TESTS, "error", "NameError: name 'add' is not defined"),
    ("assert False, 'my own'", TESTS, "error", "AssertionError: my own"),
    ("def add(a, b", TESTS, "error", "SyntaxError: '(' was never closed"),
    ("def add(a, b): return add(a, b)", TESTS, "error", "RecursionError"),
    ("import numpy", [], "error", "ModuleNotFoundError"),
    ("x = input()", [], "error", "EOFError"),
    (RIGHT, ["assert add(1, 2 == 3"], "error", "SyntaxError"),
    ("\ud800", [], "error", "Unicode"),
]  # fmt: skip


@pytest.mark.parametrize(("program", "tests", "outcome", "detail"), ORDINARY)
def test_a_program_gets_the_outcome_that_it_earns(program, tests, outcome, detail, granted):
    """Passes, failures and errors, with the reason."""
    result = ran(program, tests, granted)

    assert result.outcome == outcome
    assert (result.detail is None) == (detail is None)
    assert detail is None or result.detail.startswith(detail)


HOSTILE = [
    ("while True: pass", "timeout"),
    ("import time\ntime.sleep(100)", "timeout"),
    ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", "timeout"),
    ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "timeout"),
    ("while True: print('x' * 1000)", "timeout"),
    ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "timeout"),
    ("x = [0] * 10**10", "memory"),
    ("x = []\nwhile True: x.append(' ' * 10**6)", "memory"),
    ("def add(a, b): return [0] * 10**10", "memory"),
    ("open('big', 'w').write(' ' * 5 * 10**7)", "error"),
    ("import os\nos._exit(0)", "killed"),
    ("import os\nos._exit(77)", "killed"),
    ("import os\nos.abort()", "killed"),
    ("import ctypes\nctypes.string_at(0)", "killed"),
    ("import sys\nsys.exit(0)", "error"),
    ("raise SystemExit", "error"),
    ("def add(a, b): quit()", "error"),
    ("def add(a, b):\n    import os\n    os._exit(0)", "killed"),
    ("import socket\nsocket.socket().bind(('8.8.8.8', 80))", "error"),
    ("import os\nos.setuid(0)", "error"),
    ("import os\nos.unlink('/etc/hostname')", "error"),
    ("import os\nos.kill(-1, 9)", "error"),
]


@pytest.mark.parametrize(("program", "outcome"), HOSTILE)
def test_a_hostile_program_ends_in_its_outcome(program, outcome, granted):
    """In time, and without a pass."""
    assert ran(program, TESTS, granted).outcome == outcome


@pytest.mark.parametrize("target", ["os.getppid()", "1", "0", "-1", "OUTSIDE"])
def test_a_program_cannot_end_anything_outside(target, granted):
    """Its parent, the first process, all that it may signal, the grader by number: this test goes on."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        aimed = target.replace("OUTSIDE", str(bystander.pid))
        program = f"import os\ntry:\n    os.kill({aimed}, 9)\nexcept OSError: pass\n{RIGHT}"

        assert ran(program, TESTS, granted).outcome in ("pass", "killed")
        assert bystander.poll() is None
        bystander.kill()


TRICKS = {
    "another AssertionError": "import builtins\nbuiltins.AssertionError = KeyError",
    "no BaseException": "import builtins\nbuiltins.BaseException = KeyError",
    "exec does nothing": "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None",
    "exec in main": "import __main__\n__main__.exec = __main__.compile = lambda *a, **k: None",
    "a guard that agrees": "import __main__\n__main__.same = lambda a, b: True",
    "json says pass": 'import json\njson.dumps = lambda result: \'{"outcome": "pass"}\'',
    "ast does nothing": "import ast\nast.parse = lambda *a, **k: ast.Module([], [])",
    "json reads nothing": "import json\njson.loads = lambda *a: {'tests': [], 'token': 'x'}",
    "printed": 'print(\'{"outcome": "pass", "token": null}\')',
    "written everywhere": (
        "import os\nfor fd in range(64):\n"
        '    try: os.write(fd, b\'\\n{"outcome": "pass"}\\n\')\n    except OSError: pass'
    ),
    "at exit": "import atexit, os\natexit.register(os._exit, 0)",
    "an excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)",
    "a trace": "import sys\nsys.settrace(lambda *a: None)",
    "exits well": "import os\nos._exit = lambda code: None",
}
LIAR = "class Liar:\n    {more}\n    def __eq__(self, other): return True\ndef add(a, b): return {value}"


EVERYWHERE = (
    "import os\nfor fd in range(3, 64):\n    try: os.write(fd, {message})\n    except OSError: pass\n"
    "def add(a, b): return 'wrong'"
)


@pytest.mark.parametrize(
    "message",
    [
        'b\'\\n{"refused": "by the program"}\\n\'',
        'b\'\\n{"outcome": "fail", "detail": [1, {"a": 2}]}\\n\'',
        'b\'\\n{"outcome": ["pass"]}\\n\'',
        "b'\\n' + b'[' * 50_000 + b'\\n'",
        "b'\\xff\\n' * 1000",
        "b'x' * 60_000",
    ],
)
def test_what_a_program_writes_into_the_result_upsets_no_grader(message, granted):
    """It can spoil its own verdict alone."""
    result = ran(EVERYWHERE.format(message=message), TESTS, granted)

    assert result.outcome in ("fail", "killed")  # "fail" as it should, or nothing that can be understood
    assert result.detail is None or isinstance(result.detail, str)


@pytest.mark.parametrize("trick", TRICKS)
def test_ordinary_tricks_make_no_wrong_program_pass(trick, granted):
    """What judges was bound before the program ran, and a pass shows a token that it has not seen."""
    program = f"{TRICKS[trick]}\ndef add(a, b): return 'wrong'"

    assert ran(program, TESTS, granted).outcome not in ("pass", "timeout")


@pytest.mark.parametrize(
    "more", ["pass", "__module__ = 'builtins'", "__module__, __qualname__ = 'builtins', 'int'"]
)
@pytest.mark.parametrize("value", ["Liar()", "[Liar()]", "{1: Liar()}"])
def test_a_value_that_equals_everything_equals_nothing(more, value, granted):
    """Compared with a plain value, one of the program's own class is wrong, wherever it says it is from."""
    tests = {"Liar()": "assert add(1, 2) == 3", "[Liar()]": "assert [3] == add(1, 2)"}
    test = tests.get(value, "assert add(1, 2) == {1: 3}")

    assert ran(LIAR.format(more=more, value=value), [test], granted).outcome == "fail"


def test_it_writes_in_its_scratch_folder_alone(granted, tmp_path):
    """Not into a folder that everybody may write to, nor where temporary files usually go."""
    tmp_path.chmod(0o777)
    for folder in (tmp_path, "/tmp", "/var/tmp", "/dev/shm", "/"):
        result = ran(f"open({str(folder) + '/trace'!r}, 'w').write('x')", [], granted)

        assert result.outcome == "error"
        assert not Path(folder, "trace").exists()
    assert ran("import os", ["assert os.listdir('.') == []"], granted).outcome == "pass"


def test_it_reaches_no_network(granted):
    """Neither a listener of this machine nor anything else; nobody has called."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        port = listener.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"

        assert ran(program, [], granted).outcome == "error"
        with pytest.raises(TimeoutError):
            listener.accept()


def test_it_sees_nothing_of_the_graders_environment(granted, monkeypatch):
    """Not in its own environment, and not in that of any process that it can list."""
    monkeypatch.setenv("FSGEN_SECRET", "do not tell")
    program = (
        "import os, glob\nseen = set(os.environ)\nleaks = []\n"
        "for path in glob.glob('/proc/*/environ'):\n"
        "    try: leaks.append(open(path, 'rb').read())\n    except OSError: pass\n"
    )
    tests = [
        "assert seen <= {'PATH', 'LANG', 'PYTHONHASHSEED', 'LC_CTYPE'}",
        "assert not any(b'FSGEN_SECRET' in leak for leak in leaks)",
    ]

    assert ran(program, tests, granted) == ProgramResult("pass", None)


def test_a_program_does_the_same_every_time(granted):
    """Sets have one order, so what depends on it does not change from run to run."""
    program = "import sys\nsys.exit(' '.join({'a', 'b', 'c', 'd', 'e', 'f', 'g'}))"

    assert len({ran(program, [], granted) for _ in range(5)}) == 1


@pytest.fixture(scope="module")
def bounded(granted) -> Protections:
    """The limit on processes binds: a loop that ends by itself gets no more children than it may have."""
    program = (
        "import os, signal\nmade = 0\n"
        f"for _ in range({QUICK.processes} + 4):\n"
        "    try:\n        pid = os.fork()\n    except OSError:\n        break\n"
        "    if not pid:\n        signal.pause()\n    made += 1\n"
    )
    assert ran(program, [f"assert made == {QUICK.processes - 1}"], granted) == ProgramResult("pass", None)
    return granted


def test_a_fork_bomb_ends_in_time(bounded):
    """Run only where the bounded loop has shown that it cannot grow."""
    program = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"

    assert ran(program, [], bounded).outcome == "timeout"


def test_nothing_that_a_program_started_outlives_it(granted):
    """A daemon of its own session ends with the program, though that has passed."""
    program = (
        "import os, time\nif not os.fork():\n    os.setsid()\n"
        "    if not os.fork(): time.sleep(600)\n    os._exit(0)"
    )

    assert ran(f"{program}\n{RIGHT}", TESTS, granted).outcome == "pass"


def left_behind() -> dict:
    """What of the grader and the machine a program might have changed."""
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "mounts": Path("/proc/self/mounts").read_text(),
        "files": sorted(path for path in os.listdir("/tmp") if path.startswith("tmp")),
        "open": len(os.listdir("/proc/self/fd")),
        "runners": runners(),
    }


def runners() -> list[str]:
    """Processes of this test's sandboxes; other workers run theirs meanwhile."""
    result = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if sandbox_runner.__file__.encode() in (folder / "cmdline").read_bytes() and parent == str(
                os.getpid()
            ):
                result.append(folder.name)
    return result


def test_the_grader_and_the_machine_are_as_before(bounded, tmp_path, monkeypatch):
    """After every hostile program: the same environment, folder, mounts and files, no process, no handle."""
    before = left_behind()
    for program, _ in HOSTILE[:1] + HOSTILE[4:]:
        sandbox.run(program, TESTS, QUICK, bounded)

    assert left_behind() == before


def test_programs_side_by_side_do_not_count_as_each_others_processes(granted):
    """Four at once, each with as many children as one may have."""
    program = (
        "import os, signal, time\n"
        f"for _ in range({QUICK.processes} - 1):\n    if not os.fork():\n        signal.pause()\n"
        "time.sleep(0.3)"
    )
    with ThreadPoolExecutor(4) as pool:
        result = [*pool.map(lambda _: sandbox.run(program, [], Limits(2, 8), granted), range(4))]

    assert result == [ProgramResult("pass", None)] * 4


def test_the_protections_say_what_is_in_force_and_travel_to_workers(granted):
    """A sentence for the log, with what is missing named; the value survives a pipe."""
    assert pickle.loads(pickle.dumps(granted)) == granted
    assert granted.missing() == []
    assert "no network" in str(granted)
    assert "NOT" not in str(granted)
    assert str(granted._replace(offline=False)).endswith("; NOT in force: no network")


def test_a_sandbox_that_cannot_be_set_up_is_refused_and_weak_goes_on(monkeypatch):
    """Without namespaces code runs only where `sandbox: weak` says so, and then still within limits."""
    monkeypatch.setitem(sandbox_runner.NAMESPACES, "user", 1 << 63)
    real = sandbox.run

    def run(program, tests, limits, protections):
        if protections.isolated:
            raise UserError("The sandbox could not be set up: a new user namespace: Operation not permitted")
        return real(program, tests, limits, protections)

    monkeypatch.setattr(sandbox, "run", run)
    with pytest.raises(UserError, match=r"a new user namespace.*; set 'sandbox: weak'"):
        sandbox.protections(weak=False)
    weak = sandbox.protections(weak=True)

    assert not weak.isolated
    assert "own user and pid namespace" in weak.missing()
    assert real(RIGHT, TESTS, QUICK, weak) == ProgramResult("pass", None)
    assert real("while True: pass", TESTS, QUICK, weak).outcome == "timeout"
    assert real("x = [0] * 10**10", TESTS, QUICK, weak).outcome == "memory"
    assert real("import os\nos._exit(0)", TESTS, QUICK, weak).outcome == "killed"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_gets_the_same_sandbox(granted):
    """By a user namespace of its own; needs neither root nor a helper program."""
    code = (
        "import os, sys, json\n"
        "from fsgen.tasks.graders import sandbox\n"
        "from fsgen.tasks.graders.sandbox import Limits\n"
        "os.setgroups([]); os.setresgid(65533, 65533, 65533); os.setresuid(65533, 65533, 65533)\n"
        "p = sandbox.protections(weak=False)\n"
        "print(p.missing(), sandbox.run('x = 1', ['assert x == 1'], Limits(1, 2), p).outcome)\n"
    )
    if not sandbox_runner.is_public(str(Path(sys.executable).resolve().parent)):
        pytest.skip("this Python lies where nobody else may look")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout == "[] pass\n", done.stderr


@pytest.mark.skipif("FSGEN_DATA" not in os.environ, reason="FSGEN_DATA names no folder with mbpp/mbpp.jsonl")
def test_all_reference_solutions_of_mbpp_pass_their_own_tests(granted):
    """974 of 974, with time enough for a slow machine: number 123 needs 2 to 5 CPU seconds."""
    lines = Path(os.environ["FSGEN_DATA"], "mbpp", "mbpp.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]

    def solve(row: dict) -> ProgramResult:
        program = f"{row['code']}\n{row['test_setup_code']}"
        return sandbox.run(program, row["test_list"], Limits(cpu_s=120, wall_s=240), granted)

    with ThreadPoolExecutor(2) as pool:
        result = dict(zip([row["task_id"] for row in rows], pool.map(solve, rows), strict=True))

    assert len(result) == 974
    assert {task: ended for task, ended in result.items() if ended.outcome != "pass"} == {}
