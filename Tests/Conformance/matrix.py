"""The matrix: each sender hands each kind of message in, each primary takes it, and its bytes must be the same.

    sender {Postfix, Exim, OpenSMTPD, swaks, smtplib} ──▶ gateway ──▶ primary {Postfix, Exim, OpenSMTPD, aiosmtpd}

    matrix.py [--io epoll|uring] [--only REGEX] [--gateway postern|postfix|broken-…] [--keep]

A case is named sender-primary-mode-kind (`exim-postfix-tls-25MiB`). In mode `tls` the message comes in by STARTTLS, the
gateway's certificate verified where the sender can, and goes out by `forward.tls: encrypt`. Compared is SHA-256 from
the message's own first header line to its end; the trace fields above it must name the gateway, its protocol, and the
recipient. Exim hands in by BDAT; Postfix and Exim offer it to the gateway; their logs are counted.
"""

from __future__ import annotations

import argparse
import re
import smtplib
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import peers
from harness import (GATEWAY_NAME, Skip, body_of_lines, commit, digest,
                     exit_cleanly_on_signals, header_section, keep_folders, wait_until)
from posternctl import Gateway
from standins import gateway as gateway_named

KINDS = ["1byte", "10KiB", "1MiB", "25MiB", "dots", "8bit", "utf8"]
MODES = ["plain", "tls"]
SENDERS = ["postfix", "exim", "opensmtpd", "swaks", "smtplib"]
PRIMARIES = ["postfix", "exim", "opensmtpd", "aiosmtpd"]

SILENCE_SECONDS = 45
"""The run gives up when nothing has arrived for this long."""


@dataclass
class Case:
    sender: str
    primary: str
    mode: str
    kind: str
    sha256: str = ""
    result: str = "missing"

    @property
    def name(self) -> str:
        return f"{self.sender}-{self.primary}-{self.mode}-{self.kind}"

    @property
    def envelope(self) -> tuple[str, str]:
        local, domain = f"user.{self.sender}.{self.kind.lower()}", f"{self.primary}.{self.mode}.test"
        if self.kind == "utf8":
            return f"отправитель.{self.sender}@sender.test", f"получатель.{self.sender}@{domain}"
        return "from@sender.test", f"{local}@{domain}"

    def content(self) -> bytes:
        """The whole message, a new one for each case, ended by CRLF."""
        sizes = {"1byte": 1, "10KiB": 10 << 10, "1MiB": 1 << 20, "25MiB": 25 << 20}
        if self.kind in sizes:
            body = body_of_lines(sizes[self.kind], self.name)
            body += b"" if body.endswith(b"\r\n") else b"\r\n"
        elif self.kind == "dots":
            lines = [b".", b"..", b"...", b".x", b"x.", b"", b". ", b"..." + b"y" * 900, b".\t"]
            body = b"".join(line + b"\r\n" for line in lines * 500) + b".\r\n"
        elif self.kind == "8bit":
            every = bytes(byte for byte in range(1, 256) if byte not in b"\r\n")
            body = b"".join(every[turn:] + every[:turn] + b"\r\n" for turn in range(len(every)))
        else:
            body = "Привет, мир\r\n".encode() * 50
        return header_section(self.name, *self.envelope) + body

    def why_not(self) -> str | None:
        """Why a pair can't do this case, if it can't."""
        if self.kind == "utf8" and "opensmtpd" in (self.sender, self.primary):
            return "OpenSMTPD has no SMTPUTF8"
        if self.kind == "utf8" and self.sender == "swaks":
            return "swaks has no SMTPUTF8"
        if self.mode == "tls" and self.primary == "opensmtpd":
            return "Debian's OpenSMTPD 6.8.0p2 fails TLS handshakes as a server (its issue 1171)"
        return None


def judge(case: Case, arrival: peers.Arrival, gateway: Gateway) -> str:
    """`ok`, or what is wrong with a message that arrived."""
    if arrival.sha256 != case.sha256:
        return "changed"
    if case.envelope[1].lower() not in arrival.head.lower():
        return "recipient lost"
    if gateway.name.startswith("broken-"):
        return "ok"
    before, found, after = arrival.head.partition(f"by {GATEWAY_NAME}")
    if not found:
        return "no trace field of the gateway"
    protocol = re.search(r"\bwith\s+(\w+)", after)
    expected = ("UTF8SMTP" if case.kind == "utf8" else "ESMTP") + ("S" if case.mode == "tls" else "")
    if protocol is None or protocol[1] != expected:
        return f"traced as {protocol and protocol[1]}, not {expected}"
    encrypted = re.search(r"using TLSv|smtps\s+\(TLS|over TLS", before, re.IGNORECASE) is not None
    if encrypted != (case.mode == "tls"):
        return "came to the primary " + ("encrypted" if encrypted else "in plaintext")
    return "ok"


class Run:
    def __init__(self, gateway: Gateway, cases: list[Case]) -> None:
        self.gateway = gateway
        self.cases = {case.name: case for case in cases}
        self.last_progress = time.monotonic()
        self.duplicates: list[str] = []
        self.skipped: dict[str, str] = {}
        self.primaries: dict[str, peers.Server] = {}
        self.senders: dict[str, peers.Server] = {}
        self.first_seen: dict[str, str] = {}

    def start(self) -> None:
        """Starts the gateway, the primaries and the sending servers that the cases need."""
        self.gateway.start()
        wanted = {case.primary for case in self.cases.values()}
        for kind in peers.PRIMARIES:
            if kind.name in wanted:
                self.start_peer(kind.name, lambda: self.primaries.__setitem__(kind.name, kind().start()))
        routes = [peers.Route(f".{mode}.test", self.gateway.port, mode == "tls") for mode in MODES]
        wanted = {case.sender for case in self.cases.values()}
        for kind in peers.SENDING_SERVERS:
            if kind.name in wanted:
                self.start_peer(kind.name, lambda: self.senders.__setitem__(kind.name, kind(routes=routes).start()))
        for name, primary in self.primaries.items():
            for mode in MODES:
                self.gateway.create(f"{name}.{mode}.test", f"127.0.0.1:{primary.port}",
                                    forward__tls="encrypt" if mode == "tls" else "none")

    def start_peer(self, name: str, start: Callable[[], None]) -> None:
        try:
            start()
        except Skip as reason:
            self.skipped[name] = str(reason)

    def hand_in(self, sender: str) -> None:
        """Hands one sender's messages in, one after the other."""
        for case in self.cases.values():
            if case.sender != sender or case.sender in self.skipped or case.primary in self.skipped:
                continue
            content = case.content()
            case.sha256 = digest(content)
            try:
                if sender in self.senders:
                    self.senders[sender].submit(content, *case.envelope)
                elif sender == "swaks":
                    peers.send_with_swaks(self.gateway.port, content, *case.envelope, case.mode == "tls")
                else:
                    peers.send_with_smtplib(self.gateway.port, content, *case.envelope, case.mode == "tls")
            except Skip as reason:
                case.result = f"skipped: {reason}"
            except (RuntimeError, OSError, smtplib.SMTPException) as failure:
                case.result = "refused: " + " ".join(str(failure).split())[-300:]
            self.last_progress = time.monotonic()

    def collect(self) -> None:
        for primary in self.primaries.values():
            for arrival in primary.store.arrivals():
                self.last_progress = time.monotonic()
                case = self.cases.get(arrival.test_id)
                if case is None:
                    print(f"{primary.name} got something unknown: {arrival.head[:300]!r}")
                elif case.name in self.first_seen:
                    self.duplicates.append(case.name)
                else:
                    self.first_seen[case.name] = arrival.sha256
                    case.result = ("at the wrong primary" if case.primary != primary.name
                                   else judge(case, arrival, self.gateway))
                    arrival.path.write_bytes(b"")  # 25 MiB each: the disk is not the matrix's subject

    def execute(self) -> None:
        threads = [threading.Thread(target=self.hand_in, args=(sender,), daemon=True) for sender in SENDERS]
        for thread in threads:
            thread.start()
        while time.monotonic() - self.last_progress < SILENCE_SECONDS:
            self.collect()
            if not any(thread.is_alive() for thread in threads) and not self.waiting():
                break
            time.sleep(0.2)
        time.sleep(0.5)
        self.collect()

    def waiting(self) -> list[Case]:
        return [case for case in self.cases.values() if case.result == "missing"
                and case.sender not in self.skipped and case.primary not in self.skipped]

    def report(self) -> bool:
        """Prints the table; returns whether all is well."""
        failures = []
        columns = [primary for primary in PRIMARIES if any(case.primary == primary for case in self.cases.values())]
        print(f"\n{'handed in by':18}" + "".join(f"{'→ ' + column:<28}" for column in columns))
        for sender in SENDERS:
            for mode in MODES:
                row = [case for case in self.cases.values() if (case.sender, case.mode) == (sender, mode)]
                if not row:
                    continue
                line = f"{sender + ', ' + mode:18}"
                for column in columns:
                    cell = [case for case in row if case.primary == column]
                    unsupported = [case for case in cell if case.why_not()]
                    tried = [case for case in cell if not case.why_not()]
                    good = [case for case in tried if case.result == "ok"]
                    text = (f"{len(good)}/{len(tried)} ok" if tried else "n/a")
                    if sender in self.skipped or column in self.skipped:
                        text = "skipped"
                    elif tried and unsupported:
                        text += f" ({', '.join(case.kind for case in unsupported)} n/a)"
                    line += f"{text:<28}"
                    if text != "skipped":
                        failures += [case for case in tried if case.result != "ok"]
                print(line)
        print()
        for reason in sorted({case.why_not() or "" for case in self.cases.values()} - {""}):
            print(f"n/a: {reason}")
        for name, reason in self.skipped.items():
            print(f"skipped {name}: {reason}")
        for case in failures:
            print(f"FAILED {case.name}: {case.result}")
        for name in self.duplicates:
            print(f"FAILED {name}: arrived twice")
        return not failures and not self.duplicates and self.report_chunking()

    def report_chunking(self) -> bool:
        """Whether BDAT was used where both sides know it: the peers' logs tell."""
        well = True
        exim = self.senders.get("exim")
        counts = [("handed in by Exim", exim.chunked_departures() if isinstance(exim, peers.Exim) else None)]
        counts += [(f"taken by {server.name}", server.chunked_arrivals()) for server in self.primaries.values()
                   if isinstance(server, (peers.Postfix, peers.Exim))]
        for where, count in counts:
            if count is None:
                continue
            print(f"BDAT {where}: {count} messages")
            if count == 0 and self.gateway.name == "postern":
                print(f"FAILED: no BDAT {where}")
                well = False
        return well


def check_sizes(gateway_kind: str, io: str) -> bool:
    """smtplib: exactly `messageSize` bytes are taken, one more is not, declared by SIZE or not; and one byte in all."""
    if gateway_kind == "postfix":
        print("sizes: skipped, Postfix counts its own trace field")
        return True
    limit = 1_000_000
    well = True
    primary = peers.Aiosmtpd().start()
    with gateway_named(gateway_kind, io=io, message_size=limit) as gateway:
        gateway.start()
        gateway.create("sizes.test", f"127.0.0.1:{primary.port}", forward__tls="none")

        def offer(test_id: str, size: int, declared: bool) -> tuple[bytes, int]:
            head = header_section(test_id, "from@sender.test", "user@sizes.test")
            content = head + body_of_lines(size - len(head), test_id)
            assert len(content) == size
            with smtplib.SMTP("127.0.0.1", gateway.port, timeout=60) as client:
                client.ehlo()
                code, _ = client.mail("from@sender.test", [f"SIZE={size}"] if declared else [])
                if code != 250:
                    return content, code
                client.rcpt("user@sizes.test")
                try:
                    return content, client.data(content)[0]
                except smtplib.SMTPDataError as refusal:
                    return content, refusal.smtp_code

        expected = {}
        for declared in (True, False):
            for size, code in ((limit, 250), (limit + 1, 552)):
                test_id = f"size-{size}-{'declared' if declared else 'undeclared'}"
                content, got = offer(test_id, size, declared)
                print(f"sizes: {test_id}: {got} {'ok' if got == code else f'FAILED, not {code}'}")
                well &= got == code
                if code == 250:
                    expected[test_id] = digest(content)
        with smtplib.SMTP("127.0.0.1", gateway.port, timeout=60) as client:
            client.sendmail("from@sender.test", ["one@sizes.test"], b"X\r\n")
        arrived: list[peers.Arrival] = []

        def complete() -> bool:
            arrived.extend(primary.store.arrivals())
            return len(arrived) >= len(expected) + 1

        try:
            wait_until("the messages of exact size", complete, 20)
        except TimeoutError as timeout:
            print(f"FAILED {timeout}")
            well = False
        hashes = {arrival.test_id: arrival.sha256 for arrival in arrived}
        for test_id, sha256 in expected.items():
            if hashes.get(test_id) != sha256:
                print(f"FAILED sizes: {test_id} {'changed' if test_id in hashes else 'missing'}")
                well = False
        if not any(arrival.whole().endswith(b"\nX\r\n") for arrival in arrived):
            print("FAILED sizes: a message of one byte and its line end did not arrive as it was")
            well = False
    primary.stop()
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description="sender → gateway → primary, for all of them")
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    parser.add_argument("--only", default=".", metavar="REGEX", help="only cases whose name matches")
    parser.add_argument("--gateway", default="postern", help="postern, or a stand-in: postfix, broken-…")
    parser.add_argument("--keep", action="store_true", help="keep the folders (logs, stores)")
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    started = time.monotonic()
    try:
        gateway = gateway_named(arguments.gateway, io=arguments.io)
    except Skip as reason:
        print(reason)
        return 1
    modes = ["plain"] if gateway.name.startswith("broken-") else MODES
    cases = [Case(sender, primary, mode, kind) for kind in KINDS for sender in SENDERS for primary in PRIMARIES
             for mode in modes]
    cases = [case for case in cases if re.search(arguments.only, case.name)]
    print(f"matrix: {arguments.gateway}, io {arguments.io}, commit {commit()}, {len(cases)} cases")
    execution = Run(gateway, [case for case in cases if not case.why_not()])
    with gateway:
        execution.start()
        print(f"{gateway.description()}; all started after {time.monotonic() - started:.1f} s", flush=True)
        execution.execute()
        execution.cases.update({case.name: case for case in cases if case.why_not()})
        well = execution.report()
        left = gateway.queued()
        if left and well:
            print(f"FAILED: {left} messages still queued though all arrived")
            well = False
    if arguments.only == ".":
        try:
            well &= check_sizes(arguments.gateway, arguments.io)
        except Skip as reason:
            print(f"sizes: skipped: {reason}")
    print(f"{'passed' if well else 'FAILED'} in {time.monotonic() - started:.0f} s")
    if arguments.keep:
        keep_folders()
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
