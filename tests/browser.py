"""Chromium without a window, spoken to through its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from shutil import which
from typing import Any

SECONDS = 30.0
STOP_SECONDS = 10.0
# The protocol wants descriptors 3 and 4.
START = """
import fcntl, os, sys
reading, writing = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(reading, 3)
os.dup2(writing, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    return which("chromium") or which("chromium-browser") or which("google-chrome")


class BrowserError(Exception):
    """What the browser said."""


class Page:
    """One tab. ``complaints``: what the console said of errors and of violations of policies."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._target = target
        self.session = session
        self.complaints: list[str] = []
        browser.pages.append(self)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.send(method, params, self.session)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))

    def set_cookies(self, cookies: CookieJar, url: str) -> None:
        """As somebody else has them."""
        for cookie in cookies:
            told = {"name": cookie.name, "value": cookie.value, "path": cookie.path}
            self.send("Network.setCookie", url=url, **told)

    def window(self, width: int, height: int, dark: bool = False, mobile: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def offline(self, offline: bool) -> None:
        self.send(
            "Network.emulateNetworkConditions",
            offline=offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    def close(self) -> None:
        self._browser.pages.remove(self)
        self._browser.send("Target.closeTarget", {"targetId": self._target})

    def open(self, url: str) -> None:
        told = self.send("Page.navigate", url=url)
        if "errorText" in told:
            raise BrowserError(told["errorText"])
        self.until("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        told = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in told:
            raise BrowserError(str(told["exceptionDetails"]))
        return told["result"].get("value")

    def until(self, expression: str, seconds: float = SECONDS) -> Any:
        """Wait until it is true."""
        deadline = time.monotonic() + seconds
        while True:
            last: Any = None
            # Where the page goes away meanwhile.
            with contextlib.suppress(BrowserError):
                last = self.evaluate(expression)
            if last:
                return last
            if time.monotonic() > deadline:
                raise BrowserError(f"not within {seconds:.0f} s: {expression}")
            time.sleep(0.05)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        told = self.send("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(told["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}


class Browser:
    """A running browser."""

    def __init__(self, writing: int, reading: int) -> None:
        self._writing = writing
        self._reading = reading
        self._rest = b""
        self._number = 0
        self.pages: list[Page] = []

    def page(self) -> Page:
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        attached = self.send("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        return Page(self, attached["sessionId"], target["targetId"])

    def send(
        self, method: str, params: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            told = self._receive(deadline)
            if told.get("id") == message["id"]:
                if "error" in told:
                    raise BrowserError(f"{method}: {told['error']}")
                result: dict[str, Any] = told["result"]
                return result
            for page in self.pages:
                if page.session == told.get("sessionId") and "method" in told:
                    page.heard(told["method"], told["params"])

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BrowserError(f"the browser said nothing for {SECONDS:.0f} s")
            more = os.read(self._reading, 1 << 20)
            if not more:
                raise BrowserError("the browser has ended")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told


@contextmanager
def running() -> Iterator[Browser]:
    """A browser with a profile of its own, both gone afterwards."""
    program = find()
    if program is None:
        raise BrowserError("chromium is not installed")
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        command = [sys.executable, "-c", START, str(to_browser[0]), str(from_browser[1]), program]
        command += ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        command += ["--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[to_browser[0], from_browser[1]],
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Browser(to_browser[1], from_browser[0])
        finally:
            os.close(to_browser[1])
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(from_browser[0])
