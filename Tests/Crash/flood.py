"""Senders that never stop, with a ledger of what the gateway promised. Runs in a process of its own.

    flood.py PORT LEDGER --connections N --domains PATTERN:COUNT --seed S [--messages M] [--size MIN:MAX] [--timeout S]

Each line of the ledger is written and out of the process before the next step:

    sent      ID  SHA256  RECIPIENT,RECIPIENT…     before the first byte of the content
    promised  ID  TEXT OF THE 250                  as soon as the 250 was read
    refused   ID  CODE AND ENHANCED CODE           any other reply; no ID: to the greeting or EHLO

A connection that breaks is made again; its message is given up and a new one begun: whether it was promised is unknown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from harness import Service, body_of_lines, digest, header_section  # noqa: E402

RECONNECT_SECONDS = 0.02
REFUSED_PAUSE_SECONDS = 0.05
LARGE_BYTES = 400_000
"""Beyond what the spool writes in one piece."""


@dataclass
class Entry:
    """One message of the ledger."""

    test_id: str
    sha256: str
    recipients: tuple[str, ...]
    promised: bool = False
    refused: bool = False
    queue_id: str = ""
    """Of a promised one."""
    notice: str = ""
    """Who must get a DSN about it."""


class Flood:
    """The senders of this file in a process of their own, and what their ledger says so far."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        self.ledger = folder / "ledger"
        self.arguments = [sys.executable, __file__, str(port), str(self.ledger), *options]
        self.log = folder / "flood.log"
        self.messages: dict[str, Entry] = {}
        self.promised = 0
        self.fresh: list[Entry] = []
        self.codes: dict[str, int] = {}
        """How often each reply other than the wanted one came, by code and enhanced code."""
        self._read_to = 0
        self.go_on()

    def go_on(self) -> None:
        self.service = Service("flood", self.arguments, self.log)

    def pause(self) -> None:
        """Ends the senders; the ledger stays."""
        self.service.kill()

    def read(self) -> None:
        """Takes what the ledger has beyond the last call."""
        if not self.ledger.exists():
            return
        with self.ledger.open("rb") as file:
            file.seek(self._read_to)
            text = file.read()
        text = text[:text.rfind(b"\n") + 1]
        self._read_to += len(text)
        for line in text.decode().splitlines():
            event, test_id, *fields = line.split("\t")
            if event == "sent":
                self.messages[test_id] = Entry(test_id, fields[0], tuple(fields[1].split(",")))
            elif event == "promised":
                entry = self.messages[test_id]
                entry.promised = True
                entry.queue_id = fields[0].split()[-1]
                self.fresh.append(entry)
                self.promised += 1
            else:
                self.codes[fields[0]] = self.codes.get(fields[0], 0) + 1
                if test_id:
                    self.messages[test_id].refused = True

    def promised_meanwhile(self) -> list[Entry]:
        """What was promised since the last call."""
        self.read()
        fresh, self.fresh = self.fresh, []
        return fresh

    def promises(self) -> int:
        self.read()
        return self.promised

    def entries(self) -> dict[str, Entry]:
        self.read()
        return self.messages

    def refusals(self) -> dict[str, int]:
        self.read()
        return self.codes


class Refused(Exception):
    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        words = reply.replace("-", " ").split()
        has_status = len(words) > 1 and words[1].count(".") == 2
        self.code = " ".join(words[:2] if has_status else words[:1])


class Sender:
    def __init__(self, number: int, arguments: argparse.Namespace, ledger: int, numbers: Iterator[int]) -> None:
        self.random = random.Random(f"{arguments.seed}.{number}")
        self.number = number
        self.port = arguments.port
        self.ledger = ledger
        self.numbers = numbers
        pattern, count = arguments.domains.rsplit(":", 1)
        self.domains = [pattern % turn for turn in range(int(count))]
        self.smallest, self.largest = (int(size) for size in arguments.size.split(":"))
        self.large_share = arguments.large_share
        self.timeout: float | None = arguments.timeout
        self.test_id = ""
        self.body = body_of_lines(LARGE_BYTES, f"{arguments.seed}")

    def note(self, *fields: str) -> None:
        os.write(self.ledger, ("\t".join(fields) + "\n").encode())

    def message(self, serial: int) -> tuple[str, bytes, tuple[str, ...]]:
        test_id = f"{os.getpid()}-{serial}"
        recipients = tuple(f"u{serial % 97}@{domain}"
                           for domain in self.random.sample(self.domains, 2 if serial % 10 == 0 else 1)
                           ) if len(self.domains) > 1 else (f"u{serial % 97}@{self.domains[0]}",)
        size = self.random.randint(self.smallest, self.largest)
        if self.random.random() < self.large_share:
            size = LARGE_BYTES - self.random.randint(0, 50_000)
        start = 78 * self.random.randrange((LARGE_BYTES - size) // 78 + 1)
        body = self.body[start:start + size - 2].rstrip(b"\r\n") + b"\r\n"
        return test_id, header_section(test_id, "from@sender.test", recipients[0]) + body, recipients

    async def run(self) -> None:
        for serial in self.numbers:
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    break
                except OSError:
                    await asyncio.sleep(RECONNECT_SECONDS)
            try:
                await self.session(reader, writer, serial)
            except (OSError, asyncio.IncompleteReadError, ValueError, TimeoutError):
                await asyncio.sleep(RECONNECT_SECONDS)
            except Refused as refused:
                self.note("refused", self.test_id, refused.code)
                await asyncio.sleep(REFUSED_PAUSE_SECONDS)
            finally:
                writer.close()

    async def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, serial: int) -> None:
        """Messages over one connection: a few, or as long as it lives."""

        async def reply() -> str:
            while True:
                line = await asyncio.wait_for(reader.readuntil(b"\n"), self.timeout)
                if line[3:4] != b"-":
                    return line.decode(errors="replace").strip()
                offers.add(line[4:].split()[0].decode())

        async def expect(code: str) -> str:
            text = await reply()
            if not text.startswith(code):
                raise Refused(text)
            return text

        offers: set[str] = set()
        self.test_id = ""
        await expect("220")
        writer.write(b"EHLO flood.test\r\n")
        last = await expect("250")
        offers.add(last[4:].split()[0])
        left = 1_000_000 if self.number % 2 else self.random.randint(1, 20)
        while True:
            test_id, content, recipients = self.message(serial)
            sha256 = digest(content)
            envelope = b"MAIL FROM:<from@sender.test>\r\n" + b"".join(
                f"RCPT TO:<{recipient}>\r\n".encode() for recipient in recipients)
            self.note("sent", test_id, sha256, ",".join(recipients))
            self.test_id = test_id
            if "CHUNKING" in offers and self.number % 3 == 0:
                half = len(content) // 2
                writer.write(envelope + b"BDAT %d\r\n" % half + content[:half]
                             + b"BDAT %d LAST\r\n" % (len(content) - half) + content[half:])
                # With one recipient refused, the others may have it all the same: what becomes of it is unknown.
                self.test_id = ""
                for _ in range(2 + len(recipients)):
                    await expect("250")
                self.test_id = test_id
            else:
                writer.write(envelope + b"DATA\r\n")
                for _ in range(1 + len(recipients)):
                    await expect("250")
                await expect("354")
                writer.write(content + b".\r\n")  # no line of it begins with a dot
            await writer.drain()
            self.note("promised", test_id, await expect("250"))
            self.test_id = ""
            left -= 1
            following = next(self.numbers, None) if left else None
            if following is None:
                writer.write(b"QUIT\r\n")
                await reply()
                return
            serial = following


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("ledger")
    parser.add_argument("--connections", type=int, default=30)
    parser.add_argument("--domains", default="d%d.test:20")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--messages", type=int, default=sys.maxsize)
    parser.add_argument("--size", default="300:12000")
    parser.add_argument("--timeout", type=float, help="seconds to wait for a reply")
    parser.add_argument("--large-share", type=float, default=0.005)
    arguments = parser.parse_args()
    ledger = os.open(arguments.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    numbers = iter(range(arguments.messages))
    started = time.monotonic()
    await asyncio.gather(*(Sender(number, arguments, ledger, numbers).run() for number in range(arguments.connections)))
    print(f"{arguments.messages} messages in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
