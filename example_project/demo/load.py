"""A few simulated visitors of the example site, with nothing but the standard library."""

from __future__ import annotations

import http.client
import random
import re
import threading
import time
from urllib.parse import urlencode

VISITORS = 6
PAUSE_SECONDS = 0.3
TIMEOUT_SECONDS = 20
TRANSFER_CENTS = (100, 5000)
FORM_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')
ACCOUNT_LINK = re.compile(r'href="/accounts/(\d+)/">(TB-\d+)<')
PERSON_LINK = re.compile(r'href="(/people/[^"/]+/)"')


class Rush:
    """Visitors in threads who ask for one page, each as soon as it was answered."""

    def __init__(self, host: str, port: int, path: str, visitors: int) -> None:
        self.answered = self.failed = 0
        self._where = host, port
        self._path = path
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        self._visitors = [threading.Thread(target=self._visit, daemon=True) for _ in range(visitors)]
        self._began = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        for visitor in self._visitors:
            visitor.start()

    def stop(self) -> float:
        """Requests answered in a second."""
        answered, seconds = self.answered, time.monotonic() - self._began
        self._stopping.set()
        for visitor in self._visitors:
            visitor.join(TIMEOUT_SECONDS)
        return answered / seconds

    def _visit(self) -> None:
        connection = http.client.HTTPConnection(*self._where, timeout=TIMEOUT_SECONDS)
        while not self._stopping.is_set():
            try:
                connection.request("GET", self._path)
                response = connection.getresponse()
                response.read()
                is_good = response.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                is_good = False
            with self._counting:
                self.answered += is_good
                self.failed += not is_good
        connection.close()


class Load:
    """Visitors in threads between `start` and `stop`; `answered` and `failed` only grow.

    ``people``: whether the site has a directory, so that they look at that too.
    """

    def __init__(self, host: str, port: int, people: bool = False) -> None:
        self.host = host
        self.port = port
        self.people = people
        self.answered = 0
        self.failed = 0
        self.last_failure = ""
        self._accounts: list[tuple[str, str]] = []
        self._people: list[str] = []
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        self._visitors = [
            threading.Thread(target=self._visit, args=(random.Random(n),), daemon=True)
            for n in range(VISITORS)
        ]

    def start(self) -> None:
        self._accounts = ACCOUNT_LINK.findall(self._request("GET", "/accounts/")[1])
        if self.people:
            self._people = PERSON_LINK.findall(self._request("GET", "/people/")[1])
        for visitor in self._visitors:
            visitor.start()

    def stop(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + TIMEOUT_SECONDS
        for visitor in self._visitors:
            if visitor.is_alive():
                visitor.join(max(0, deadline - time.monotonic()))

    def _visit(self, dice: random.Random) -> None:
        while not self._stopping.wait(dice.uniform(0, 2 * PAUSE_SECONDS)):
            try:
                self._do_something(dice)
            except (OSError, http.client.HTTPException) as failure:
                with self._counting:
                    self.failed += 1
                    self.last_failure = str(failure) or type(failure).__name__

    def _do_something(self, dice: random.Random) -> None:
        (key, source), (_, target) = dice.sample(self._accounts, 2)
        pages = (
            "/",
            "/accounts/",
            f"/accounts/{key}/",
            f"/accounts/{key}/balance.json",
            f"/mixed/{key}.json",
        )
        people = ("/people/", dice.choice(self._people)) if self._people else ()
        others = ("/transfers/", f"/quote/?account={source}&currency=USD", "transfer")
        what = dice.choice([*pages, *people, *others])
        if what == "transfer":
            self._transfer(source, target, dice.randint(*TRANSFER_CENTS))
        else:
            self._request("GET", what)

    def _transfer(self, source: str, target: str, cents: int) -> None:
        cookies, page = self._request("GET", "/transfers/new/")
        token = FORM_TOKEN.search(page)
        if token is None:
            raise http.client.HTTPException("/transfers/new/ has no form")
        fields = {
            "source": source,
            "target": target,
            "amount": f"{cents // 100}.{cents % 100:02}",
            "reference": "Demo",
            "csrfmiddlewaretoken": token[1],
        }
        self._request("POST", "/transfers/new/", urlencode(fields), cookies)

    def _request(self, method: str, path: str, body: str | None = None, cookies: str = "") -> tuple[str, str]:
        """The answer's cookies and text; an answer of 400 or more is an exception."""
        headers = {"Cookie": cookies} if cookies else {}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status >= 400:
            raise http.client.HTTPException(f"{method} {path}: status {response.status}")
        with self._counting:
            self.answered += 1
        set_cookies = response.msg.get_all("Set-Cookie") or []
        return "; ".join(cookie.partition(";")[0] for cookie in set_cookies), text
