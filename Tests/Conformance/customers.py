"""Customers who come for their mail with programs that others wrote: all of it arrives, unchanged, once, and is gone here.

    Postern ◀── ATRN ── fetchmail ──▶ the customer's server          Postern ◀── ETRN ── fetchmail, smtplib
            ◀── POP3 ── fetchmail, getmail, mpop, poplib                     ──▶ the customer's server

    customers.py [--keep] [NAME…]

Installs fetchmail, getmail6 and mpop from Debian when they are missing (root).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import poplib
import smtplib
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from harness import (Skip, certificate_authority, exit_cleanly_on_signals, free_port, keep_folders, scratch_folder,
                     wait_until)
from posternctl import Postern
from sink import Sink

SECRET = "geheim-und-lang"
PACKAGES = {"fetchmail": "fetchmail", "getmail": "getmail6", "mpop": "mpop"}
ARRIVAL_SECONDS = 30
ANYBODY = "nobody"

SAVE = """import os, sys, uuid
recipient = sys.argv[2] if len(sys.argv) > 2 else ""
with open(os.path.join(sys.argv[1], uuid.uuid4().hex + " " + recipient), "wb") as file:
    file.write(sys.stdin.buffer.read())
"""

BODIES = [
    b"plain\n",
    b".one\n..two\n.\n...\nFrom the beginning\n",
    "Grüße, in UTF-8: ☃\n".encode(),
    b"a line of 900 bytes: " + b"x" * 880 + b"\n",
    b"",
    b"".join(b"large, line %d of it\n" % number for number in range(40_000)),
]


def body_digest(message: bytes) -> tuple[str, str]:
    """The test id in the header section, and the digest of what is below it, line ends made one."""
    text = message.replace(b"\r\n", b"\n")
    header, _, body = text.partition(b"\n\n")
    for line in header.split(b"\n"):
        if line.startswith(b"X-Test-Id: "):
            return line[11:].decode(), hashlib.sha256(body).hexdigest()
    return "?", hashlib.sha256(body).hexdigest()


def install() -> None:
    missing = [package for program, package in PACKAGES.items()
               if subprocess.run(["which", program], capture_output=True).returncode]
    if not missing:
        return
    if os.getuid():
        raise Skip(f"missing: apt-get install {' '.join(missing)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise Skip(f"{' '.join(command)}: {done.stderr[-300:]}")


class Yard:
    """One Postern with all its ports, and what was sent through it."""

    def __init__(self) -> None:
        self.ports = {name: free_port() for name in ("odmr", "odmrs", "pop3", "pop3s")}
        self.gateway = Postern(listen={name: [f"127.0.0.1:{port}"] for name, port in self.ports.items()})
        self.gateway.start()
        self.sent: dict[str, tuple[str, list[str]]] = {}

    def send(self, *domains: str) -> dict[str, tuple[str, list[str]]]:
        """Each body once for each domain, one of them for two recipients: digest and recipients by test id."""
        sent: dict[str, tuple[str, list[str]]] = {}
        with smtplib.SMTP("127.0.0.1", self.gateway.port, timeout=60) as client:
            for domain in domains:
                for number, body in enumerate(BODIES):
                    name = f"{domain}-{number}"
                    recipients = [f"user{at}@{domain}" for at in range(2 if number == 1 else 1)]
                    message = f"From: a@sender.test\nX-Test-Id: {name}\nSubject: {name}\n\n".encode() + body
                    client.sendmail("a@sender.test", recipients, message.replace(b"\n", b"\r\n"), ["BODY=8BITMIME"])
                    sent[name] = (body_digest(message)[1], recipients)
        return sent

    def run(self, *arguments: str | Path, folder: Path, ends: tuple[int, ...] = (0,)) -> str:
        environment = os.environ | {"HOME": str(folder), "FETCHMAILHOME": str(folder), "LC_ALL": "C"}
        done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=120, env=environment,
                              cwd=folder, errors="replace")
        output = done.stdout + done.stderr
        if done.returncode not in ends:
            raise AssertionError(f"{Path(arguments[0]).name} ended with {done.returncode}: {output[-1500:]}")
        return output

    def expect_empty(self, domain: str) -> None:
        wait_until(f"nothing waits for {domain}",
                   lambda: not [m for m in self.gateway.command("queue", "list", domain)], ARRIVAL_SECONDS)


def compare(sent: dict[str, tuple[str, list[str]]], files: list[bytes]) -> None:
    found = Counter(body_digest(content) for content in files)
    wanted = Counter((name, digest) for name, (digest, _) in sent.items())
    if found != wanted:
        raise AssertionError(f"missing {list((wanted - found))[:3]}, too much {list((found - wanted))[:3]}")


def taken(sink: Sink, sent: dict[str, tuple[str, list[str]]]) -> None:
    """The customer's server got each once, for its recipients."""
    got: list[tuple[str, tuple[str, ...]]] = []

    def complete() -> bool:
        got.extend((message.test_id, tuple(sorted(message.recipients))) for message in sink.taken())
        return sum(len(recipients) for _, recipients in got) >= sum(len(r) for _, r in sent.values())

    wait_until("all of it at the customer's server", complete, ARRIVAL_SECONDS)
    wanted = Counter((recipient) for _, recipients in sent.values() for recipient in recipients)
    found = Counter(recipient for _, recipients in got for recipient in recipients)
    if wanted != found:
        raise AssertionError(f"recipients: missing {wanted - found}, too much {found - wanted}")
    names = {name for name, _ in got}
    if names != set(sent):
        raise AssertionError(f"messages {sorted(names ^ set(sent))[:4]}")


def certificate_options() -> str:
    return f'sslcertck sslcertfile "{certificate_authority()}" sslcommonname "mx.gateway.test"'


# ATRN


def fetchmail_odmr(yard: Yard) -> None:
    """CRAM-MD5 in the clear; both of a customer's domains over one connection."""
    folder = scratch_folder("odmr")
    sink = Sink(folder).start()
    yard.gateway.create("odmr1.test", dequeue__method="atrn", dequeue__user="tim", dequeue__secret=SECRET,
                        delivery__when="onContact")
    yard.gateway.create("odmr2.test", dequeue__method="atrn", dequeue__user="tim", delivery__when="onContact")
    sent = yard.send("odmr1.test", "odmr2.test")
    control = folder / "fetchmailrc"
    control.write_text(
        f'poll gateway via 127.0.0.1 protocol odmr service {yard.ports["odmr"]}\n'
        f'  user "tim" password "{SECRET}" fetchdomains odmr1.test,odmr2.test smtphost "127.0.0.1/{sink.port}"\n')
    control.chmod(0o600)
    output = yard.run("fetchmail", "-v", "-f", control, "--nosyslog", folder=folder, ends=(0, 1))
    try:
        taken(sink, sent)
    except (TimeoutError, AssertionError) as fault:
        raise AssertionError(f"{fault}; fetchmail said {output[-1200:]}") from None
    finally:
        sink.stop()
    for domain in ("odmr1.test", "odmr2.test"):
        yard.expect_empty(domain)


# ETRN


def fetchmail_etrn(yard: Yard) -> None:
    folder = scratch_folder("etrn")
    sink = Sink(folder).start()
    yard.gateway.create("etrn.test", f"127.0.0.1:{sink.port}", dequeue__method="etrn", delivery__when="onContact",
                        dequeue__etrn__requireAuthentication="false", dequeue__etrn__allow="127.0.0.1")
    sent = yard.send("etrn.test")
    control = folder / "fetchmailrc"
    control.write_text(f'poll 127.0.0.1 protocol etrn service {yard.gateway.port} fetchdomains etrn.test\n')
    control.chmod(0o600)
    output = yard.run("fetchmail", "-v", "-f", control, "--nosyslog", folder=folder, ends=(0, 1))
    if "253" not in output:
        raise AssertionError(f"no 253: {output[-1200:]}")
    try:
        taken(sink, sent)
    finally:
        sink.stop()
    yard.expect_empty("etrn.test")


def smtplib_etrn(yard: Yard) -> None:
    """With AUTH (CRAM-MD5, then PLAIN under TLS), and to a server named for it."""
    folder = scratch_folder("etrn-auth")
    sink = Sink(folder).start()
    yard.gateway.create("auth.test", dequeue__method="etrn", dequeue__secret=SECRET, delivery__when="onContact",
                        dequeue__etrn__server="127.0.0.1", dequeue__etrn__port=str(sink.port))
    sent = yard.send("auth.test")
    with smtplib.SMTP("127.0.0.1", yard.gateway.port, timeout=30) as client:
        client.ehlo()
        if client.docmd("ETRN auth.test")[0] not in (459, 530):
            raise AssertionError("ETRN without AUTH")
        client.user, client.password = "auth.test", SECRET
        code, words = client.auth("CRAM-MD5", client.auth_cram_md5)
        if code != 235:
            raise AssertionError(f"CRAM-MD5: {code} {words!r}")
        code, words = client.docmd("ETRN auth.test")
        if code != 253 or f"{len(BODIES)} pending".encode() not in words:
            raise AssertionError(f"ETRN: {code} {words!r}")
    try:
        taken(sink, sent)
    finally:
        sink.stop()
    yard.expect_empty("auth.test")
    context = ssl.create_default_context(cafile=str(certificate_authority()))
    context.check_hostname = False
    with smtplib.SMTP("127.0.0.1", yard.gateway.port, timeout=30) as client:
        client.starttls(context=context)
        client.login("auth.test", SECRET)
        if client.docmd("ETRN auth.test")[0] != 251:
            raise AssertionError("nothing waits, and it is not 251")


# POP3


def mailbox(yard: Yard, domain: str) -> dict[str, tuple[str, list[str]]]:
    yard.gateway.create(domain, dequeue__method="mailbox", dequeue__mailbox__password=SECRET, delivery__when="onContact")
    return yard.send(domain)


def fetchmail_pop3(yard: Yard) -> None:
    """Multidrop: `Delivered-To` says for whom."""
    folder = scratch_folder("fetchmail")
    sent = mailbox(yard, "fetch.test")
    (folder / "save.py").write_text(SAVE)
    (folder / "mail").mkdir()
    control = folder / "fetchmailrc"
    control.write_text(
        f'poll gateway via 127.0.0.1 protocol pop3 service {yard.ports["pop3s"]} envelope "Delivered-To"\n'
        f'  no dns localdomains fetch.test user "fetch.test" password "{SECRET}" to * here ssl {certificate_options()}\n'
        f'  mda "{sys.executable} {folder}/save.py {folder}/mail %T"\n')
    control.chmod(0o600)
    output = yard.run("fetchmail", "-v", "-f", control, "--nosyslog", folder=folder, ends=(0, 1))
    files = list((folder / "mail").iterdir())
    found = Counter(file.name.split(" ", 1)[1] for file in files)
    if found["user0@fetch.test"] + sum("user0" in name for name in found.elements() if "@" not in name) < len(BODIES):
        raise AssertionError(f"recipients {found}; {output[-1500:]}")
    unique = {body_digest(file.read_bytes()): file.read_bytes() for file in files}
    compare(sent, list(unique.values()))
    yard.expect_empty("fetch.test")


def getmail(yard: Yard) -> None:
    folder = scratch_folder("getmail")
    sent = mailbox(yard, "getmail.test")
    # It delivers as another user, never as root.
    for name in ("new", "cur", "tmp"):
        (folder / "mail" / name).mkdir(parents=True)
    (folder / "getmailrc").write_text(
        "[retriever]\ntype = SimplePOP3SSLRetriever\nserver = 127.0.0.1\n"
        f"port = {yard.ports['pop3s']}\nusername = getmail.test\npassword = {SECRET}\n"
        f"[destination]\ntype = Maildir\npath = {folder}/mail/\nuser = {ANYBODY}\n"
        "[options]\ndelete = true\nreceived = false\ndelivered_to = false\nverbose = 2\n")
    yard.run("chown", "-R", ANYBODY, folder, folder=folder)
    yard.run("getmail", f"--getmaildir={folder}", folder=folder)
    compare(sent, [file.read_bytes() for file in (folder / "mail/new").iterdir()])
    yard.expect_empty("getmail.test")


def mpop(yard: Yard) -> None:
    """STLS and SCRAM-SHA-256; then APOP, when nothing is left."""
    folder = scratch_folder("mpop")
    sent = mailbox(yard, "mpop.test")
    for name in ("new", "cur", "tmp"):
        (folder / "mail" / name).mkdir(parents=True)
    for auth in ("scram-sha-256", "apop"):
        control = folder / f"mpoprc-{auth}"
        control.write_text(
            f"account a\nhost 127.0.0.1\nport {yard.ports['pop3']}\nuser mpop.test\npassword {SECRET}\nauth {auth}\n"
            f"tls on\ntls_starttls on\ntls_trust_file {certificate_authority()}\ntls_host_override mx.gateway.test\n"
            f"delivery maildir {folder}/mail\nuidls_file {folder}/uidls\nreceived_header off\nkeep off\n")
        control.chmod(0o600)
        yard.run("mpop", "-C", control, "a", folder=folder)
        yard.expect_empty("mpop.test")
    compare(sent, [file.read_bytes() for file in (folder / "mail/new").iterdir()])


def python_poplib(yard: Yard) -> None:
    """Sizes are exact, UIDL stays, and what is not deleted by QUIT stays."""
    sent = mailbox(yard, "poplib.test")
    context = ssl.create_default_context(cafile=str(certificate_authority()))
    context.check_hostname = False

    def login() -> poplib.POP3:
        box = poplib.POP3("127.0.0.1", yard.ports["pop3"], timeout=30)
        box.stls(context)
        box.user("poplib.test")
        box.pass_(SECRET)
        return box

    box = login()
    names = box.uidl()[1]
    sizes = [int(line.split()[1]) for line in box.list()[1]]
    contents = []
    for number, size in enumerate(sizes, 1):
        lines = box.retr(number)[1]
        contents.append(b"\n".join(lines) + b"\n")
        if sum(len(line) + 2 for line in lines) != size:
            raise AssertionError(f"message {number} is {sum(len(line) + 2 for line in lines)} bytes, LIST says {size}")
        if not lines[0].startswith(b"Return-Path: <a@sender.test>"):
            raise AssertionError(f"message {number} begins with {lines[0]!r}")
    compare(sent, contents)
    box.dele(1)
    box.close()
    box = login()
    if box.uidl()[1] != names:
        raise AssertionError("a session without QUIT changed the maildrop")
    for number in range(1, len(sizes) + 1):
        box.dele(number)
    box.quit()
    yard.expect_empty("poplib.test")


CASES: list[Callable[[Yard], None]] = [
    fetchmail_odmr, fetchmail_etrn, smtplib_etrn, fetchmail_pop3, getmail, mpop, python_poplib]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    exit_cleanly_on_signals()
    failed = 0
    try:
        install()
        yard = Yard()
        for case in CASES:
            if given.names and case.__name__ not in given.names:
                continue
            try:
                case(yard)
                print(f"ok  {case.__name__}", flush=True)
            except (AssertionError, TimeoutError, OSError, poplib.error_proto, smtplib.SMTPException,
                    subprocess.TimeoutExpired) as fault:
                failed += 1
                print(f"FAILED  {case.__name__}: {fault}", flush=True)
        yard.gateway.stop()
        if SECRET in yard.gateway.log_text():
            failed += 1
            print("FAILED  the secret stands in the log")
    except Skip as why:
        print(f"skipped: {why}")
        return 1
    if given.keep or failed:
        keep_folders()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
