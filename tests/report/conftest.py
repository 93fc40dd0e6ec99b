"""A headless Chromium that tests speak to over its debugging pipe; no driver, no network."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
PATIENCE = 60  # seconds for an answer before the test fails


class Browser:
    """One tab. `events` gathers what the page said on its console, and its errors."""

    def __init__(self, process: subprocess.Popen, to_browser: int, from_browser: int):
        self.process, self.to, self.source = process, to_browser, from_browser
        self.rest, self.number, self.session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        """Result of a command of the DevTools protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def run(self, code: str):
        """Value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, url: str, width: int, height: int, dark: bool = False) -> None:
        """Show a page at this size and wait until it says that it is ready."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        until = time.monotonic() + PATIENCE
        while self.run("document.documentElement?.dataset.ready") != "yes":
            assert time.monotonic() < until, "the page never became ready"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release a key where the focus is."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def complaints(self) -> list[dict]:
        """What a console would show as an error or a warning."""
        bad = []
        for event in self.events:
            params = event.get("params", {})
            levels = {params.get("type"), params.get("entry", {}).get("level")}
            if event.get("method") == "Runtime.exceptionThrown" or levels & {"error", "warning", "assert"}:
                bad.append(event)
        return bad

    def _receive(self) -> dict:
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.source], [], [], PATIENCE)
            assert ready, "Chromium did not answer"
            self.rest += os.read(self.source, 1 << 16)
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def started(binary: str) -> Iterator[Browser]:
    """A browser with a profile of its own; it ends with the block."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # the pipe's ends must become 3 and 4, so they are moved out of the way of these first
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
    profile = tempfile.mkdtemp()
    command = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
    process = subprocess.Popen(
        ["bash", "-c", command, binary, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=ends,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (theirs_in, theirs_out, *ends):
        os.close(end)
    try:
        yield Browser(process, ours_out, ours_in)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        for end in (ours_out, ours_in):
            os.close(end)
        shutil.rmtree(Path(profile), ignore_errors=True)
