"""Records dialogues of real mail programs with a real gateway, for the tests that cut them at every byte.

    record.py [--only REGEX]        writes Tests/Dialogs/recorded/*.txt; README.md here says how they read

    sender ──▶ recorder ──▶ gateway         sender-*: we are the server
    gateway ──▶ recorder ──▶ primary        primary-*: we are the client

The recorder sits between two sockets and notes what passes; it ends its notes where TLS begins. Run it again only when
the words of our own replies change: the tests compare them. Needs what the conformance tests need, and swaks.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import smtplib
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))

import peers
from harness import (Skip, exit_cleanly_on_signals, free_port, run, wait_until)
from posternctl import Postern

FOLDER = Path(__file__).resolve().parent / "recorded"
MESSAGE_SIZE = 65_536
"""As the tests have it: it stands in our answer to EHLO."""

MESSAGE = (b"From: <a@sender.test>\r\nSubject: dots and 8 bit\r\n\r\n.\r\n..x\r\nGr\xc3\xbc\xc3\x9fe\r\n\r\nend\r\n")
SHORT = b"Subject: short\r\n\r\n.hello\r\n"


# Recording

class Recorder:
    """Passes the bytes of each connection on and notes them in the order in which they came."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.sessions: list[list[tuple[str, bytes]]] = []
        self.ended = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            notes: list[tuple[str, bytes]] = []
            self.sessions.append(notes)
            for source, sink, side in ((client, server, "C"), (server, client, "S")):
                threading.Thread(target=self.carry, args=(source, sink, side, notes), daemon=True).start()

    def carry(self, source: socket.socket, sink: socket.socket, side: str, notes: list[tuple[str, bytes]]) -> None:
        try:
            while data := source.recv(65536):
                with self.lock:
                    notes.append((side, data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        with self.lock:
            self.ended += 1

    def wait(self, sessions: int = 1) -> None:
        """Until so many connections have begun and all have ended."""
        wait_until("the end of the session", lambda: len(self.sessions) >= sessions
                   and self.ended == 2 * len(self.sessions), 40)

    def close(self) -> None:
        self.listener.close()


# Writing

def turns(notes: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Neighbours of one side joined."""
    joined: list[tuple[str, bytes]] = []
    for side, data in notes:
        if joined and joined[-1][0] == side:
            joined[-1] = (side, joined[-1][1] + data)
        else:
            joined.append((side, data))
    return joined


def plain_part(notes: list[tuple[str, bytes]]) -> tuple[list[tuple[str, bytes]], bool]:
    """What was said before TLS, and whether TLS followed."""
    so_far = turns(notes)
    for at in range(1, len(so_far)):
        if so_far[at][1].startswith(b"220") and so_far[at - 1][1].upper().endswith(b"STARTTLS\r\n"):
            return so_far[:at + 1], True
    return so_far, False


def steady(side: str, data: bytes) -> bytes:
    """Dates, ids and ports replaced, by text of the same length where the other side counts bytes."""
    data = re.sub(rb"\w{3}, [ \d]?\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}",
                  lambda found: b"Thu, %s Jan 2026 00:00:00 +0000" % b"1".rjust(len(found[0]) - 29, b"0"), data)
    data = re.sub(rb"(\bid[ =])([\w.-]{6,})", lambda found: found[1] + b"I" * len(found[2]), data)
    data = re.sub(rb"(Message-Id: <)([^@>]+)", lambda found: found[1] + b"I" * len(found[2]), data, flags=re.I)
    if side == "S":
        data = re.sub(rb"^(250 2\.0\.0 )(\w{8,})(?=\r\n| Message accepted)", rb"\1ID", data, flags=re.M)
        data = re.sub(rb"(queued as )\w+", rb"\1ID", data)
    return data


def escaped(line: bytes) -> str:
    """Readable, and the same bytes again when read."""
    def one(character: str) -> str:
        if character == "\\":
            return "\\\\"
        # Bytes that are no UTF-8 come as lone surrogates.
        bytes_ = character.encode("utf-8", "surrogateescape")
        return character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in bytes_)

    return "".join(map(one, line.decode("utf-8", "surrogateescape")))


def lines(side: str, data: bytes) -> list[str]:
    parts = data.split(b"\r\n")
    text = [f"{side}: {escaped(part)}" if part else f"{side}:" for part in parts[:-1]]
    return text + ([f"{side}: {escaped(parts[-1])}\\"] if parts[-1] else [])


def write(name: str, title: str, role: str, notes: list[tuple[str, bytes]], settings: str = "") -> None:
    said, has_tls = plain_part(notes)
    text = [f"# {title}", f"role: {role}", *([f"with: {settings}"] if settings else []), ""]
    for side, data in said:
        text += lines(side, steady(side, data))
    text += ["TLS"] if has_tls else []
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.txt").write_text("\n".join(text) + "\n")
    print(f"{name}: {sum(len(data) for _, data in said)} bytes")


# Senders: we are the server

def gateway(**trust: list[str]) -> Postern:
    made = Postern(message_size=MESSAGE_SIZE)
    settings = json.loads(made.configuration.read_text())
    settings["trust"] = {"unlimited": [], **trust}
    made.configuration.write_text(json.dumps(settings, indent=2))
    return made


def swaks(port: int, *options: str, content: bytes = MESSAGE) -> None:
    program = shutil.which("swaks")
    if program is None:
        raise Skip("swaks is not installed (apt-get install swaks)")
    file = Path(peers.scratch_folder("swaks")) / "message"
    file.write_bytes(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    try:
        run(program, "--server", f"127.0.0.1:{port}", "--from", "a@sender.test", "--to", "x@demo.test",
            "--helo", "swaks.sender.test", "--data", f"@{file}", "--no-data-fixup", *options)
    except RuntimeError as failure:
        if "--to" not in options:
            raise
        print(f"  {str(failure).splitlines()[0][-60:]}")


def library(port: int, act: Callable[[smtplib.SMTP], None]) -> None:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="smtplib.sender.test", timeout=30) as client:
        client.ehlo()
        act(client)


def refused(act: Callable[[], object]) -> None:
    """What smtplib raises for a refusal is what is wanted."""
    try:
        act()
    except smtplib.SMTPException as failure:
        print(f"  {failure}")


def by_hand(port: int, *steps: tuple[bytes, int]) -> None:
    """Sends each text and waits for so many replies."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        stream = connection.makefile("rb")

        def reply() -> None:
            while (line := stream.readline())[3:4] == b"-":
                pass
            assert line, "closed"

        reply()
        for text, replies in steps:
            connection.sendall(text)
            for _ in range(replies):
                reply()


def international(client: smtplib.SMTP) -> None:
    client.command_encoding = "utf-8"
    client.sendmail("отправитель@sender.test", ["получатель@demo.test"], SHORT, ["BODY=8BITMIME", "SMTPUTF8"])


def two_with_reset(client: smtplib.SMTP) -> None:
    client.sendmail("a@sender.test", ["x@demo.test"], SHORT)
    client.mail("b@sender.test")
    client.rset()
    client.sendmail("", ["x@demo.test", "y@demo.test"], SHORT)


def hand_in(server: peers.Server, recipients: list[str], content: bytes, mail: list[str], rcpt: list[str]) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
        client.ehlo("submit.test")
        client.sendmail("a@sender.test", recipients, content, mail_options=mail, rcpt_options=rcpt)


def senders(only: str) -> None:
    def record(name: str, title: str, act: Callable[[int], None], to: Postern, settings: str = "") -> None:
        if not re.search(only, name):
            return
        recorder = Recorder(to.port)
        try:
            act(recorder.port)
            recorder.wait()
            write(name, title, "server", recorder.sessions[0], settings)
        except Skip as reason:
            print(f"{name}: skipped: {reason}")
        finally:
            recorder.close()

    with gateway() as plain, gateway(xclient=["127.0.0.0/8"]) as trusting, gateway(proxy=["127.0.0.0/8"]) as behind:
        for started in (plain, trusting):
            started.start()
            started.create("demo.test", hold="true")
        plain.create("off.test", enabled="false")
        if re.search(only, "sender-swaks-proxy"):
            start_behind_proxy(behind)
            for version in ("1", "2"):
                record(f"sender-swaks-proxy{version}", f"swaks behind a proxy, PROXY protocol version {version}.",
                       lambda port: swaks(port, "--proxy-version", version, "--proxy-family",
                                          "TCP4" if version == "1" else "AF_INET", *(
                           [] if version == "1" else ["--proxy-protocol", "STREAM", "--proxy-command", "PROXY"]),
                           "--proxy-source", "192.0.2.5", "--proxy-source-port", "4321",
                           "--proxy-dest", "127.0.0.1", "--proxy-dest-port", "25"), behind, "proxy")
        for name, title, act in [
            ("swaks", "swaks, one command at a time, DATA.", lambda port: swaks(port)),
            ("swaks-pipelining", "swaks with PIPELINING.", lambda port: swaks(port, "--pipeline")),
            ("swaks-refused", "swaks, one recipient of three is known.", lambda port: swaks(
                port, "--to", "x@other.test,y@demo.test,z@off.test")),
            ("swaks-starttls", "swaks with STARTTLS.", lambda port: swaks(port, "--tls")),
            ("smtplib", "smtplib, 8BITMIME, a message with dots.", lambda port: library(
                port, lambda client: client.sendmail("a@sender.test", ["x@demo.test"], MESSAGE, ["BODY=8BITMIME"]))),
            ("smtplib-utf8", "smtplib with SMTPUTF8.", lambda port: library(port, international)),
            ("smtplib-reset", "smtplib, RSET between two messages, the second with two recipients.",
             lambda port: library(port, two_with_reset)),
            ("smtplib-unknown", "smtplib to a domain that is not ours: 550, RSET.", lambda port: library(
                port, lambda client: refused(lambda: client.sendmail("a@sender.test", ["x@other.test"], SHORT)))),
            ("smtplib-too-big", "smtplib, SIZE beyond the limit: 552.", lambda port: library(
                port, lambda client: client.mail("a@sender.test", ["SIZE=70000"]))),
            ("smtplib-null", "smtplib, null reverse-path, DSN parameters.", lambda port: library(
                port, lambda client: client.sendmail(
                    "", ["x@demo.test"], SHORT, ["RET=HDRS", "ENVID=QQ+2B1"],
                    ["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;x+2By@demo.test"]))),
            ("hand-errors", "by hand: replies 500, 501, 502, 503, 550, 552, 553, 554.", lambda port: by_hand(
                port, (b"MAIL FROM:<a@b>\r\n", 1), (b"EHLO hand.test\r\n", 1), (b"FOO\r\n", 1),
                (b"RCPT TO:<x@y>\r\n", 1),
                (b"MAIL FROM:a@b\r\n", 1), (b"MAIL FROM:<a>\r\n", 1), (b"MAIL FROM:<a@b> SIZE=99999999\r\n", 1),
                (b"MAIL FROM:<a@b>\r\nRCPT TO:<x@other.test>\r\nDATA\r\n", 3), (b"AUTH PLAIN AAAA\r\n", 1),
                (b"VRFY x\r\n", 1), (b"HELP\r\n", 1), (b"NOOP\r\n", 1), (b"QUIT\r\n", 1))),
            ("hand-chunks", "by hand: chunks, RSET between them, a message of three, pipelined.", lambda port: by_hand(
                port, (b"EHLO hand.test\r\n", 1),
                (b"MAIL FROM:<a@b.test>\r\nRCPT TO:<x@demo.test>\r\nBDAT 6\r\nA: b\r\nRSET\r\n", 4),
                (b"MAIL FROM:<a@b.test>\r\nRCPT TO:<x@demo.test>\r\nBDAT 6\r\nA: b\r\nBDAT 0\r\n"
                 b"BDAT 7 LAST\r\n\r\n.\r\n\r\nQUIT\r\n", 6))),
        ]:
            record(f"sender-{name}", title, act, plain)
        record("sender-swaks-xclient", "swaks with XCLIENT.", lambda port: swaks(
            port, "--xclient-addr", "192.0.2.9", "--xclient-name", "c.example"), trusting, "xclient")
        for kind in peers.SENDING_SERVERS:
            if re.search(only, f"sender-{kind.name}"):
                try:
                    sending_server(kind, plain)
                except Skip as reason:
                    print(f"{kind.name}: skipped: {reason}")


def start_behind_proxy(behind: Postern) -> None:
    """Such a listener greets nobody who comes without the header, so the harness can't wait for its greeting."""
    from harness import Service, certificate_authority
    from posternctl import BINARY

    behind.service = Service("postern", [str(BINARY), "serve", "--config", str(behind.configuration)], behind.log,
                             {"SSL_CERT_FILE": str(certificate_authority())})

    def answers() -> bool:
        try:
            behind.command("status")
            socket.create_connection(("127.0.0.1", behind.port), timeout=1).close()
            return True
        except (OSError, RuntimeError):
            return False

    wait_until("the gateway behind a proxy", answers, 20)
    behind.create("demo.test", hold="true")


def sending_server(kind: type[peers.Server], to: Postern) -> None:
    recorders = [Recorder(to.port) for _ in range(3)]
    suffixes = ["plain", "dsn", "tls"]
    server = kind(routes=[peers.Route(f".{suffix}.demo.test", recorder.port, suffix == "tls")
                          for suffix, recorder in zip(suffixes, recorders)]).start()
    for suffix in suffixes:
        to.create(f"{kind.name}.{suffix}.demo.test", hold="true")
    address = "x@" + kind.name + ".{}.demo.test"
    hand_in(server, [address.format("plain")], MESSAGE, ["BODY=8BITMIME"], [])
    has_dsn = kind.name == "postfix"
    hand_in(server, [address.format("dsn"), "y" + address.format("dsn")[1:]], SHORT,
            ["RET=HDRS", "ENVID=abc"] if has_dsn else [],
            ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;o@demo.test"] if has_dsn else [])
    hand_in(server, [address.format("tls")], SHORT, [], [])
    for recorder, suffix, title in zip(recorders, suffixes, ["one message", "two recipients", "STARTTLS"]):
        recorder.wait()
        write(f"sender-{kind.name}-{suffix}", f"{kind.name} as the sender: {title}.", "server", recorder.sessions[0])
        recorder.close()
    server.stop()


# Primaries: we are the client

def primaries(only: str) -> None:
    kinds = [kind for kind in peers.PRIMARIES if re.search(only, f"primary-{kind.name}")]
    if not kinds:
        return
    with gateway() as sender:
        sender.start()
        for kind in kinds:
            try:
                primary = kind().start()
            except Skip as reason:
                print(f"{kind.name}: skipped: {reason}")
                continue
            for mode in ("plain", "tls") if primary.takes_tls else ("plain",):
                recorder = Recorder(primary.port)
                domain = f"{kind.name}.{mode}.test"
                sender.create(domain, f"127.0.0.1:{recorder.port}", hold="true", forward__concurrency="1",
                              forward__tls="none" if mode == "plain" else "encrypt")
                with smtplib.SMTP("127.0.0.1", sender.port, local_hostname="c.sender.test", timeout=30) as client:
                    client.ehlo()
                    client.sendmail("a@sender.test", [f"x@{domain}"], MESSAGE,
                                    ["BODY=8BITMIME", "RET=FULL", "ENVID=e1"], ["NOTIFY=FAILURE"])
                    client.sendmail("", [f"x@{domain}", f"y@{domain}"], SHORT)
                    if kind.supports_utf8:
                        client.command_encoding = "utf-8"
                        client.sendmail("a@sender.test", [f"получатель@{domain}"], SHORT, ["SMTPUTF8"])
                sender.command("gateway", "set", domain, "hold=false")
                wait_until("delivery", lambda: sender.queued() == 0, 30)
                recorder.wait()
                write(f"primary-{kind.name}-{mode}", f"{kind.name} as the primary takes messages in one session.",
                      "client", recorder.sessions[0], "" if mode == "plain" else "tls")
                recorder.close()
            primary.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description="real sessions, recorded")
    parser.add_argument("--only", default=".", metavar="REGEX", help="only dialogues whose name matches")
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    senders(arguments.only)
    primaries(arguments.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
