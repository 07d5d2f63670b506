"""A server with its page and API, and clients for both: what the tests of this folder share."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import smtplib
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from harness import Skip, exit_cleanly_on_signals, wait_until  # noqa: E402
from peers import python_with  # noqa: E402
from posternctl import BINARY, Postern  # noqa: E402

PASSWORD = "correct horse battery staple"
PAGE = {"Postern-Request": "test"}


def need(*packages: str) -> None:
    """Goes on in a virtual environment that has these packages from PyPI; installs them when they are missing."""
    python = python_with(*packages)
    if Path(sys.prefix) != python.parents[1]:
        os.execv(python, [str(python), *sys.argv])


def program(package: str) -> str:
    """The program of a Debian package of the same name, installed when it is missing."""
    found = shutil.which(package)
    if found is None and os.geteuid() == 0:
        print(f"installing {package}", file=sys.stderr)
        for words in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            subprocess.run(["apt-get", *words], stdout=subprocess.DEVNULL,
                           env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False)
        found = shutil.which(package)
    if found is None:
        raise Skip(f"{package} is missing: apt-get install {package}")
    return found


class Answer:
    """What one request was answered with."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def etag(self) -> str:
        return self.headers["ETag"]

    @property
    def cookie(self) -> str | None:
        """As it is sent back."""
        said = self.headers["Set-Cookie"]
        return said.split(";")[0] if said else None

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:500].decode(errors='replace')}"


class Site:
    """One server with two gateways and some mail, and a token of each scope."""

    def __init__(self) -> None:
        self.postern = Postern()
        self.port = self.postern.admin_port
        self.tokens: dict[str, str] = {}

    def command(self, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(BINARY), *words, "--config", str(self.postern.configuration)], input=given,
                              capture_output=True, text=True, timeout=60)

    def __enter__(self) -> "Site":
        self.postern.start()
        wait_until("the page", lambda: self.ask("GET", "/healthz").status == 200, 20)
        for scope in ("read", "write"):
            made = self.command("token", "create", f"test-{scope}", "--scope", scope)
            assert made.returncode == 0, made.stderr
            self.tokens[scope] = made.stdout.strip()
        assert self.command("password", "admin", given=PASSWORD + "\n").returncode == 0
        return self

    def __exit__(self, *what: object) -> None:
        self.postern.__exit__(*what)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None,
            timeout: float = 60) -> Answer:
        """One request as it is given; a body that is no bytes goes as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except (ConnectionError, http.client.HTTPException):
            return Answer(0, {}, b"")
        finally:
            connection.close()

    def api(self, method: str, path: str, body: Any = None, *, scope: str | None = "write",
            headers: dict[str, str] | None = None) -> Answer:
        """One request to the API with a token."""
        said = {"Authorization": f"Bearer {self.tokens[scope]}"} if scope else {}
        return self.ask(method, f"/api/v1/{path}", body, {**said, **(headers or {})})

    def sign_in(self, password: str = PASSWORD, user: str = "admin", headers: dict[str, str] | None = None) -> Answer:
        return self.ask("POST", "/api/v1/session", {"user": user, "password": password}, {**PAGE, **(headers or {})})

    def send(self, recipient: str, count: int = 1, subject: str = "hello", body: str = "text") -> list[str]:
        """Hands mail in; its queue ids."""
        ids = []
        with smtplib.SMTP("127.0.0.1", self.postern.port) as client:
            for number in range(count):
                client.ehlo()
                client.mail("sender@example.org")
                code, said = client.rcpt(recipient)
                assert code == 250, (code, said)
                code, said = client.data(f"Subject: {subject}\r\nFrom: s@example.org\r\n\r\n{body} {number}\r\n")
                assert code == 250, (code, said)
                found = re.search(rb"2\.0\.0 (\S+)", said)
                assert found, said
                ids.append(found.group(1).decode())
        return ids


def check(what: str, holds: bool, seen: object = "") -> None:
    """A claim of a test; what was seen is printed when it doesn't hold."""
    if not holds:
        raise AssertionError(f"{what}; seen: {seen}")


def run_all(tests: list[Callable[[Site], None]], wanted: list[str]) -> int:
    """Runs tests against one server each after the other, prints a line each; the exit status."""
    exit_cleanly_on_signals()
    failed = 0
    try:
        site = Site()
    except Skip as reason:
        print(reason)
        return 1
    with site:
        for test in tests:
            if wanted and test.__name__ not in wanted:
                continue
            began = time.monotonic()
            try:
                test(site)
                print(f"passed  {test.__name__} ({time.monotonic() - began:.1f} s)")
            except Exception as fault:  # noqa: BLE001: one test's fault is no reason to leave the others out
                failed += 1
                print(f"FAILED  {test.__name__}: {fault}")
                if not isinstance(fault, AssertionError):
                    traceback.print_exc()
        complaints = site.postern.complaints()
        if complaints:
            failed += 1
            print("FAILED  the server itself:", *complaints, sep="\n  ")
    return 1 if failed else 0
