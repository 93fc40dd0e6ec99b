"""The script that runs inside the sandbox: it executes a program that cannot be trusted, then its tests.

`sandbox.run` starts it as `python sandbox_runner.py PROGRAM TESTS RESULT LIMITS`; the first three are file
descriptors. It imports nothing of the project. The chain of processes is: this process (which the grader can
kill), a child in its own user namespace, the first process of a pid namespace, and below that the program.
Everything that the program starts is in that pid namespace and ends with it.

The kernel protects the machine from the program. The verdict is protected from ordinary tricks only: a
program shares its process with its tests, and one that is written to forge a pass can do so.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import types

MOUNT_POINT = "/mnt"  # exists everywhere and holds nothing that Python needs
SCRATCH, LIBRARY = f"{MOUNT_POINT}/scratch", f"{MOUNT_POINT}/library"
NOBODY = 65534
MODULE = "solution"
HEAP_TYPE = 1 << 9  # flag of a class made at run time, as all classes of a program are
NAMESPACES = {"mount": 0x20000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_RECURSIVE, OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, READ_ONLY = -100, 0x8000, 1, 4, 1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
RESULT_WRITTEN = 77  # exit status of a program's process that has written a result
libc = ctypes.CDLL(None, use_errno=True)


def main(program_fd: int, tests_fd: int, result_fd: int, limits: dict) -> None:
    """Set up the isolation that `limits` requests, run the program in it and write the result."""
    die_with_parent()
    if limits["isolated"]:
        enter_namespaces()
    elif os.getuid() == 0 and is_public(os.path.dirname(os.__file__)):
        os.setgroups([])
        become_nobody()
    supervise(program_fd, tests_fd, result_fd, limits)


def enter_namespaces() -> None:
    """Return in the first process of new namespaces; the processes above it wait for its end and exit."""
    enter_user_namespace()
    unshare("pid", "mount", "net", "ipc")
    library = take_library()
    become_nobody()
    die_with_parent()
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        os._exit(0)
    die_with_parent()
    confine_files(library)
    drop_capabilities()


def enter_user_namespace() -> None:
    """Return in a child with its own user namespace; this process maps its ids, waits for it and exits."""
    go_r, go_w = os.pipe()
    ready_r, ready_w = os.pipe()
    if os.getuid() == 0:
        os.setgroups([])
    child = os.fork()
    if child:
        os.close(ready_w)
        os.read(ready_r, 1)
        map_ids(child)
        os.write(go_w, b"+")
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) and 1)
    die_with_parent()
    unshare("user")
    os.write(ready_w, b"+")
    os.read(go_r, 1)


def check(result: int, what: str) -> None:
    """OSError if a call to libc has failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def unshare(*kinds: str) -> None:
    """Move into new namespaces of these kinds; OSError if the kernel refuses."""
    check(libc.unshare(sum(NAMESPACES[kind] for kind in kinds)), f"a new {', '.join(kinds)} namespace")


def map_ids(child: int) -> None:
    """Map the child's id of nobody: to the machine's nobody for root, to the user itself for another user."""
    uid, gid = (NOBODY, NOBODY) if os.getuid() == 0 else (os.getuid(), os.getgid())
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {uid} 1"),
        ("gid_map", f"{NOBODY} {gid} 1"),
    ):
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write(text)


def become_nobody() -> None:
    """Switch to the user nobody, irrevocably."""
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def is_public(folder: str) -> bool:
    """Whether every user may read a folder."""
    parents = (folder[:end] for end in range(1, len(folder) + 1) if folder[end : end + 1] in ("", "/"))
    return all(os.stat(path).st_mode & 1 for path in parents)


def take_library() -> int:
    """A handle of Python's library, which may lie in a folder that nobody cannot read (root's home)."""
    folder = os.path.dirname(os.__file__).encode()
    handle = libc.syscall(OPEN_TREE, AT_FDCWD, folder, OPEN_TREE_CLONE | AT_RECURSIVE)
    check(handle, "a handle of Python's library")
    return handle


def confine_files(library: int) -> None:
    """Make everything read-only but an empty scratch folder in memory, and mount /proc of this namespace."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", MOUNT_POINT, "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=700")
    os.mkdir(SCRATCH)
    os.mkdir(LIBRARY)
    moved = libc.syscall(MOVE_MOUNT, library, b"", AT_FDCWD, LIBRARY.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    check(moved, "Python's library")
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY)
    done = libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes))
    check(done, "a read-only file system")
    mount("tmpfs", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=700")
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:  # refused inside some containers, which hide parts of /proc
        mount("tmpfs", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "size=4k,mode=500")
    os.chdir(SCRATCH)
    import_from_library()


def import_from_library() -> None:
    """Import Python's library from its new place, also the rest of packages that are loaded already."""
    former = os.path.dirname(os.__file__)
    sys.path[:] = [LIBRARY, f"{LIBRARY}/lib-dynload"]
    sys.path_importer_cache.clear()
    for module in [*sys.modules.values()]:
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(former, LIBRARY) for path in module.__path__]


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount as mount(2) does; OSError if the kernel refuses."""
    names = [name if name is None else name.encode() for name in (source, target, kind)]
    check(libc.mount(*names, ctypes.c_ulong(flags), options.encode()), f"a mount on {target}")


def drop_capabilities() -> None:
    """Give up all capabilities, and the right to get new ones."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    check(libc.capset(header, nothing), "giving up capabilities")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up new privileges")


def supervise(program_fd: int, tests_fd: int, result_fd: int, limits: dict) -> None:
    """Run the program in a child; write how the child ended if it wrote no result itself."""
    os.write(result_fd, b'{"ready": true}\n')
    program = read_all(program_fd)
    child = os.fork()
    if not child:
        restrain(limits)
        redirect()
        os._exit(run(program, tests_fd, result_fd))
    libc.prctl(PR_SET_DUMPABLE, 0)  # or the program could trace this process, whose user it shares
    _, status, used = os.wait4(child, 0)
    if not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == RESULT_WRITTEN):
        is_late = status & 0x7F == signal.SIGXCPU
        is_late |= os.WIFSIGNALED(status) and used.ru_utime + used.ru_stime >= limits["cpu_s"]
        outcome = "timeout" if is_late else "killed"
        detail = f"CPU time above {limits['cpu_s']:g} s" if is_late else describe_exit(status)
        os.write(result_fd, b"\n" + json.dumps({"outcome": outcome, "detail": detail}).encode() + b"\n")
    os._exit(0)


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"left with exit status {os.WEXITSTATUS(status)} before its tests had ended"


def restrain(limits: dict) -> None:
    """Set the kernel's limits on this process and everything that it starts."""
    if limits["isolated"]:  # otherwise it stays in the session that the grader kills
        os.setsid()
    die_with_parent()
    cpu_s = max(1, round(limits["cpu_s"]))
    processes = limits["processes"] + 2  # the two processes above this one have the same user
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, limits["memory_mb"] << 20, limits["memory_mb"] << 20),
        (resource.RLIMIT_NPROC, processes, processes),
        (resource.RLIMIT_FSIZE, 16 << 20, 16 << 20),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))


def redirect() -> None:
    """Connect standard input and output to /dev/null."""
    empty = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(empty, fd)


def run(program: str, tests_fd: int, result_fd: int) -> int:
    """Execute the program, then each test; write the result and return RESULT_WRITTEN.

    The functions that judge are bound before the program runs, so that it cannot replace them. The tests, and
    the token that a pass must show, are read after it has run.
    """
    failed, out_of_memory, anything = AssertionError, MemoryError, BaseException
    write, dumps, loads, execute, kind_of = os.write, json.dumps, json.loads, exec, type
    read, make, equal = read_all, compile, same

    def report(outcome, detail=None, token=None):
        write(
            result_fd, b"\n" + dumps({"outcome": outcome, "detail": detail, "token": token}).encode() + b"\n"
        )
        return RESULT_WRITTEN

    test = None
    try:
        module = types.ModuleType(MODULE)
        sys.modules[MODULE] = module
        execute(make(program, f"{MODULE}.py", "exec"), module.__dict__)
        test_input = loads(read(tests_fd))
        module.__dict__[test_input["token"]] = equal
        for test, guarded in test_input["tests"]:  # noqa: B007, the test that fails is reported
            execute(make(guarded, "test", "exec"), module.__dict__)
    except out_of_memory:
        write(result_fd, b'\n{"outcome": "memory", "detail": "memory above the limit"}\n')
        return RESULT_WRITTEN
    except failed as error:
        return report("fail", test) if test else report("error", f"AssertionError: {error}")
    except anything as error:
        return report("error", f"{kind_of(error).__name__}: {str(error)[:300]}")
    return report("pass", None, test_input["token"])


def same(left, right) -> bool:
    """left == right, unless only one of them has a type of the program, which could equal everything."""
    return has_program_type(left) == has_program_type(right) and left == right


def has_program_type(value) -> bool:
    """Whether a value, or one that it holds, has a class that no module of the library defines."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return any(map(has_program_type, value))
    if kind is dict:
        return any(map(has_program_type, value.keys())) or any(map(has_program_type, value.values()))
    home = sys.modules.get(kind.__module__)
    is_of_library = kind.__module__ != MODULE and getattr(home, kind.__qualname__, None) is kind
    return bool(kind.__flags__ & HEAP_TYPE) and not is_of_library


def read_all(fd: int) -> str:
    """Everything in an open file, from its beginning."""
    os.lseek(fd, 0, os.SEEK_SET)
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts).decode(errors="surrogatepass")


if __name__ == "__main__":
    result = int(sys.argv[3])
    try:
        main(*map(int, sys.argv[1:4]), json.loads(sys.argv[4]))
    except OSError as refused:
        os.write(result, json.dumps({"refused": str(refused)}).encode() + b"\n")
        os._exit(1)
