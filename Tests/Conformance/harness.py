"""What the programs that test Postern from outside share: ports, scratch folders, processes, certificates, messages.

Everything happens on loopback. What a program starts ends with it: on success, on failure, on Ctrl-C, on SIGTERM.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".build-peers"
"""Installed peers, the test CA and the virtual environment: made once, ignored by git, removed by hand."""

GATEWAY_NAME = "mx.gateway.test"
PRIMARY_NAME = "primary.test"
ID_HEADER = b"X-Test-Id: "

MESSAGE_SIZE_LIMIT = 27 * 1024 * 1024
"""`limits.messageSize` in these tests, in bytes: room for a body of 25 MiB and its header section."""


class Skip(Exception):
    """Something from outside is missing; the text says what, and what would help."""


# Ports

_given: set[int] = set()


def free_port() -> int:
    """A free TCP port of 127.0.0.1 below the range for outgoing connections.

    A gateway that was killed must get its port back at once; a port of the ephemeral range could be taken meanwhile by
    any outgoing connection.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def wait_until(what: str, condition: Callable[[], bool], seconds: float, every: float = 0.05) -> None:
    """Polls until `condition` holds; raises TimeoutError that names `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every)


def greets(port: int) -> bool:
    """Whether an SMTP server on this port of 127.0.0.1 sends its 220 within a second."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            greeting = connection.recv(512)
            connection.sendall(b"QUIT\r\n")
            return greeting.startswith(b"220")
    except OSError:
        return False


# Folders and processes

_running: list["Service"] = []
_folders: list[Path] = []
_mounts: list[Path] = []


def scratch_folder(label: str) -> Path:
    """A new folder that goes when the program ends; readable by the peers' users."""
    folder = Path(tempfile.mkdtemp(prefix=f"postern-{label}-"))
    folder.chmod(0o755)
    _folders.append(folder)
    return folder


def mount(folder: Path, *arguments: str | Path) -> None:
    """Mounts at `folder` until the program ends."""
    folder.mkdir(parents=True, exist_ok=True)
    run("mount", *arguments, folder)
    _mounts.append(folder)


def unmount(folder: Path) -> None:
    """Also when something holds a file of it open."""
    run("umount", "--lazy", folder)
    _mounts.remove(folder)


def keep_folders() -> None:
    """Leaves the scratch folders made so far for the reader of a failure, and says where they are."""
    print("kept:", *_folders)
    _folders.clear()


def end_services() -> None:
    """kill -9 of everything that was started and still runs, the newest first."""
    for service in reversed(_running.copy()):
        service.kill()


@atexit.register
def clean_up() -> None:
    """Ends every service still running, then removes the scratch folders."""
    end_services()
    for folder in reversed(_mounts.copy()):
        unmount(folder)
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)
    _folders.clear()


def exit_cleanly_on_signals() -> None:
    """SIGTERM and SIGHUP end the program like Ctrl-C, so that `clean_up` runs."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


class Service:
    """A long-running process and all its descendants, its output in a file."""

    def __init__(self, label: str, arguments: list[str], log: Path, environment: dict[str, str] | None = None,
                 cgroup: Path | None = None, in_namespace: bool = False) -> None:
        self.label = label
        self.in_namespace = in_namespace
        self.log = log
        join_cgroup = None
        if cgroup is not None:
            def join_cgroup() -> None:
                (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env={**os.environ, **(environment or {})}, preexec_fn=join_cgroup)
        _running.append(self)

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def group(self) -> list[int]:
        """The living processes of our process group, also when its first one has ended."""
        members = []
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
            except OSError:
                continue  # ended meanwhile
            if fields and int(fields[2]) == self.pid and fields[0] not in "ZX":
                members.append(int(entry.name))
        return members

    def running(self) -> bool:
        return self.process.poll() is None

    def wait_for_greeting(self, port: int, seconds: float = 20) -> None:
        """Returns once the port greets; raises with the end of the log if the process ends before."""

        def ready() -> bool:
            if not self.running():
                raise RuntimeError(f"{self.label} ended with {self.process.returncode}:\n{self.tail()}")
            return greets(port)

        try:
            wait_until(f"{self.label} on port {port}", ready, seconds)
        except TimeoutError as timeout:
            raise RuntimeError(f"{timeout}\n{self.tail()}") from None

    def tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def terminate(self, seconds: float = 65) -> int:
        """SIGTERM, then SIGKILL if it has not ended in time. Returns the exit status, negative for a signal."""
        if self.running():
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                print(f"{self.label}: still running {seconds:g} s after SIGTERM, killed", file=sys.stderr)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL to the process group, as kill -9 would, and to the first process of a namespace of its own."""
        if self.in_namespace and self.running():
            for child in self.children():
                os.kill(child, signal.SIGKILL)
            self.process.wait()  # unshare, which has then taken leave of its child
        if self.running() or self.group():
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        if self in _running:
            _running.remove(self)


def run(*arguments: str | Path, timeout: float = 120, cwd: Path | None = None) -> str:
    """Runs a short command to its end and returns its output; raises with the command's own words if it fails."""
    result = subprocess.run([str(argument) for argument in arguments], stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, cwd=cwd)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))}: exit {result.returncode}\n{result.stderr}{result.stdout}")
    return result.stdout


def commit() -> str:
    """The commit under test, marked when the tree has changes."""
    try:
        return run("git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12").strip()
    except (RuntimeError, FileNotFoundError):
        return "no commit"


# Certificates

@dataclass(frozen=True)
class Certificate:
    certificate: Path
    key: Path


def certificate_authority() -> Path:
    """The test CA's certificate, made at the first call."""
    folder = CACHE / "ca"
    authority = folder / "ca.pem"
    if not authority.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"making a test CA in {folder}", file=sys.stderr)
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-sha256",
            "-subj", "/CN=Postern test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", folder / "ca.key", "-out", authority)
    return authority


def certificate(name: str, *, label: str | None = None, expired: bool = False,
                self_signed: bool = False) -> Certificate:
    """A certificate for `name` (and 127.0.0.1 for the servers' own names) by the test CA, made at the first call."""
    authority = certificate_authority()
    folder = authority.parent
    label = label or name
    made = Certificate(folder / f"{label}.pem", folder / f"{label}.key")
    if made.certificate.exists() and not expires_soon(made.certificate, expired):
        return made
    alternatives = f"DNS:{name}" + (",IP:127.0.0.1" if name in (GATEWAY_NAME, PRIMARY_NAME) else "")
    extensions = folder / f"{label}.ext"
    extensions.write_text(f"subjectAltName={alternatives}\nkeyUsage=critical,digitalSignature\n"
                          "extendedKeyUsage=serverAuth\nbasicConstraints=critical,CA:FALSE\n")
    request = folder / f"{label}.csr"
    run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
    if self_signed:
        run("openssl", "x509", "-req", "-in", request, "-signkey", made.key, "-days", "90",
            "-extfile", extensions, "-out", made.certificate)
    elif expired:
        # `openssl x509` of OpenSSL 3.0 takes no dates: `openssl ca` does.
        database = folder / "expired"
        shutil.rmtree(database, ignore_errors=True)
        database.mkdir()
        (database / "index.txt").touch()
        (database / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={database}/index.txt\nnew_certs_dir={database}\nrand_serial=yes\n"
            "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n")
        run("openssl", "ca", "-batch", "-notext", "-config", database / "ca.cnf", "-cert", authority,
            "-keyfile", folder / "ca.key", "-in", request, "-extfile", extensions,
            "-startdate", "20240101000000Z", "-enddate", "20240201000000Z", "-out", made.certificate)
    else:
        run("openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", folder / "ca.key",
            "-CAcreateserial", "-days", "90", "-sha256", "-extfile", extensions, "-out", made.certificate)
    made.key.chmod(0o600)
    return made


def expires_soon(path: Path, expired: bool) -> bool:
    """Whether a certificate that should be good has less than ten days left."""
    if expired:
        return False
    return subprocess.run(["openssl", "x509", "-in", path, "-noout", "-checkend", "864000"],
                          stdout=subprocess.DEVNULL).returncode != 0


# Messages

def digest(content: bytes) -> str:
    """SHA-256 from the `X-Test-Id` line to the end: what every hop must leave as it is. Empty if the line is missing.

    Each hop puts its trace fields above that line. Stores that keep lines with LF alone are brought back to CRLF first.
    """
    start = 0 if content.startswith(ID_HEADER) else content.find(b"\n" + ID_HEADER) + 1
    if start == 0 and not content.startswith(ID_HEADER):
        return ""
    return hashlib.sha256(content[start:]).hexdigest()


def identifier(content: bytes) -> str:
    """The value of the `X-Test-Id` line, or an empty string."""
    for line in content[:65536].split(b"\n"):
        if line.startswith(ID_HEADER):
            return line[len(ID_HEADER):].strip().decode("ascii", "replace")
    return ""


def to_crlf(content: bytes) -> bytes:
    """LF to CRLF, for stores that keep lines the Unix way."""
    return content.replace(b"\n", b"\r\n") if b"\r\n" not in content else content


def header_section(test_id: str, sender: str, recipient: str) -> bytes:
    return ID_HEADER + (
        f"{test_id}\r\nDate: Mon, 05 Jan 2026 10:00:00 +0000\r\nFrom: <{sender}>\r\nTo: <{recipient}>\r\n"
        f"Message-ID: <{test_id}@sender.test>\r\nSubject: conformance {test_id}\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n").encode()


def body_of_lines(size: int, seed: str) -> bytes:
    """Text of exactly `size` bytes in lines of at most 78, ended by CRLF, different for every seed."""
    generator = random.Random(seed)
    alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789 ,;"
    block = bytes(generator.choices(alphabet, k=76 * 64))
    lines = b"".join(block[at:at + 76] + b"\r\n" for at in range(0, len(block), 76))
    body = bytearray((lines * (size // len(lines) + 1))[:size])
    if size >= 2:
        body[-2:] = b"\r\n"
        if size >= 3 and body[-3:-2] == b"\r":
            body[-3:-2] = b"z"
    return bytes(body)
