"""A primary that takes everything and keeps a record: what came, over which connection, when.

    sink.py PORT RECORD [--tls CERTIFICATE KEY] [--no-chunking] [--timeout SECONDS] [--later-while FILE]

One line per event, fields separated by tabs, times in seconds of the monotonic clock. `took` is written before its 250
is sent:

    open    CONNECTION  TIME
    took    CONNECTION  TIME  ID  SHA256  RECIPIENT,RECIPIENT…  plaintext|tls  QUEUE-ID
    closed  CONNECTION  TIME  quit|lost|timeout

`timeout`: the client was silent for so long. Recipients `never…` are refused with 550, and `later…` with 451 while FILE
is there. QUEUE-ID is that of the gateway before us, from its trace field.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import Service, digest, free_port, identifier

CONTENT_MAX_BYTES = 256 << 20
COMMAND_MAX_BYTES = 4096


@dataclass(frozen=True)
class Taken:
    """One `took` line."""

    connection: int
    at: float
    test_id: str
    sha256: str
    recipients: tuple[str, ...]
    tls: bool
    queue_id: str


class Sink:
    """A sink in a process of its own, on one port through all its stops and starts."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.record = folder / "sink.record"
        self.options = options
        self.service: Service | None = None
        self._read_to = 0
        self.was_stopped = False
        self.open_connections: set[int] = set()
        self.ended_here: set[int] = set()
        """Connections that the sink ended, not the client."""

    def start(self) -> "Sink":
        """After a stop: what it took must have been read."""
        self.service = Service("sink", [sys.executable, __file__, str(self.port), str(self.record), *self.options],
                               self.folder / "sink.log")
        self.service.wait_for_greeting(self.port)
        return self

    def stop(self) -> None:
        if self.service is not None:
            self.service.kill()
            self.service = None
            self.was_stopped = True

    def taken(self) -> Iterator[Taken]:
        """The messages taken since the last call; keeps count of the connections."""
        for fields in self.new_lines():
            if fields[0] == "open":
                self.open_connections.add(int(fields[1]))
            elif fields[0] == "closed":
                self.open_connections.discard(int(fields[1]))
                if fields[3] == "timeout":
                    self.ended_here.add(int(fields[1]))
            elif fields[0] == "took":
                yield Taken(int(fields[1]), float(fields[2]), fields[3], fields[4], tuple(fields[5].split(",")),
                            fields[6] == "tls", fields[7])
        if self.was_stopped:
            # A sink that is killed notes no ends.
            self.was_stopped = False
            self.ended_here |= self.open_connections
            self.open_connections.clear()

    def new_lines(self) -> Iterator[list[str]]:
        if not self.record.exists():
            return
        with self.record.open("rb") as file:
            file.seek(self._read_to)
            text = file.read()
        text = text[:text.rfind(b"\n") + 1]
        self._read_to += len(text)
        for line in text.decode().splitlines():
            yield line.split("\t")


class Session(asyncio.Protocol):
    """The server's side of one SMTP conversation. Pipelining and BDAT at any split of the input."""

    count = os.getpid() * 1_000_000
    record: int
    chunking = True
    timeout: float | None = None
    later_while: str | None = None
    tls: ssl.SSLContext | None = None

    def __init__(self) -> None:
        Session.count += 1
        self.number = Session.count
        self.buffer = bytearray()
        self.recipients: list[str] = []
        self.in_content = False
        self.chunk_left: int | None = None
        self.last_chunk = False
        self.content = bytearray()
        self.searched = 0
        self.encrypted = False
        self.upgrading = False
        self.end = "lost"
        self.timer: asyncio.TimerHandle | None = None

    def note(self, event: str, *fields: str) -> None:
        line = "\t".join([event, str(self.number), f"{time.monotonic():.6f}", *fields]) + "\n"
        os.write(self.record, line.encode())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if not self.encrypted:
            self.note("open")
            self.reply("220 primary.test ESMTP")
            self.watch()

    def connection_lost(self, _: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.note("closed", self.end)

    def watch(self) -> None:
        """The client has been heard: its time begins anew."""
        if self.timer is not None:
            self.timer.cancel()
        if self.timeout is not None:
            self.timer = asyncio.get_running_loop().call_later(self.timeout, self.time_out)

    def time_out(self) -> None:
        self.end = "timeout"
        self.reply("421 4.4.2 too slow")
        self.transport.close()

    def reply(self, text: str) -> None:
        self.transport.write(text.encode() + b"\r\n")

    def data_received(self, data: bytes) -> None:
        self.watch()
        self.buffer += data
        self.proceed()

    def proceed(self) -> None:
        """Takes all that is whole. While TLS begins, nothing: the answer would go out on the old, plain transport."""
        while not self.upgrading and self.step():
            pass

    def step(self) -> bool:
        """Takes one command or one piece of content from the buffer; false when more bytes are needed."""
        if self.chunk_left is not None:
            part = self.buffer[:self.chunk_left]
            del self.buffer[:len(part)]
            self.content += part
            self.chunk_left -= len(part)
            if self.chunk_left:
                return False
            self.chunk_left = None
            if not self.recipients:
                # What was announced is read all the same (RFC 3030 §2).
                self.reset()
                self.reply("503 5.5.1 no recipients")
            elif self.last_chunk:
                self.complete(bytes(self.content))
            else:
                self.reply("250 2.0.0 chunk")
            return True
        if self.in_content:
            if self.buffer.startswith(b".\r\n"):
                end = -2
            else:
                end = self.buffer.find(b"\r\n.\r\n", max(self.searched - 5, 0))
                self.searched = len(self.buffer)
                if end < 0:
                    if len(self.buffer) > CONTENT_MAX_BYTES:
                        self.transport.abort()
                    return False
            stuffed = bytes(self.buffer[:end + 2])
            del self.buffer[:end + 5]
            self.in_content = False
            text = stuffed[1:] if stuffed.startswith(b".") else stuffed
            self.complete(text.replace(b"\r\n.", b"\r\n"))
            return True
        end = self.buffer.find(b"\r\n")
        if end < 0:
            if len(self.buffer) > COMMAND_MAX_BYTES:
                self.transport.abort()
            return False
        line = bytes(self.buffer[:end])
        del self.buffer[:end + 2]
        return self.command(line)

    def command(self, line: bytes) -> bool:
        verb = line[:4].upper()
        if verb in (b"EHLO", b"HELO"):
            offers = ["primary.test", "PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES",
                      f"SIZE {CONTENT_MAX_BYTES}"]
            offers += ["CHUNKING"] if self.chunking else []
            offers += ["STARTTLS"] if self.tls and not self.encrypted else []
            self.transport.write("".join(f"250{'-' if number + 1 < len(offers) else ' '}{offer}\r\n"
                                         for number, offer in enumerate(offers)).encode())
        elif verb == b"MAIL":
            self.reset()
            self.reply("250 2.1.0 ok")
        elif verb == b"RCPT":
            recipient = line[line.index(b"<") + 1:line.rindex(b">")].decode(errors="replace")
            if recipient.startswith("never"):
                self.reply("550 5.1.1 nobody here")
            elif recipient.startswith("later") and self.later_while and os.path.exists(self.later_while):
                self.reply("451 4.2.1 not now")
            else:
                self.recipients.append(recipient)
                self.reply("250 2.1.5 ok")
        elif verb == b"DATA" and self.recipients:
            self.in_content = True
            self.searched = 0
            self.reply("354 go on")
        elif verb == b"BDAT":
            words = line.split()
            self.chunk_left = int(words[1])
            self.last_chunk = len(words) > 2 and words[2].upper() == b"LAST"
        elif verb == b"RSET":
            self.reset()
            self.reply("250 2.0.0 ok")
        elif verb == b"NOOP":
            self.reply("250 2.0.0 ok")
        elif verb == b"QUIT":
            self.end = "quit"
            self.reply("221 2.0.0 bye")
            self.transport.close()
            return False
        elif line.upper() == b"STARTTLS" and self.tls and not self.encrypted:
            self.reply("220 2.0.0 go on")
            self.transport.pause_reading()
            self.upgrading = True
            self.upgrade = asyncio.get_running_loop().create_task(self.start_tls())
            return False
        else:
            self.reply("503 5.5.1 not now")
        return True

    async def start_tls(self) -> None:
        """Handshake; a client that refuses our certificate ends the connection here."""
        self.reset()
        self.buffer.clear()
        self.encrypted = True
        assert self.tls is not None
        try:
            transport = await asyncio.get_running_loop().start_tls(self.transport, self, self.tls, server_side=True)
        except (OSError, ConnectionError):
            self.transport.abort()
            return
        if transport is not None:
            self.transport = transport
            self.upgrading = False
            self.proceed()

    def complete(self, content: bytes) -> None:
        self.note("took", identifier(content), digest(content), ",".join(self.recipients),
                  "tls" if self.encrypted else "plaintext", queue_id(content))
        self.reset()
        self.reply("250 2.0.0 taken")

    def reset(self) -> None:
        self.recipients = []
        self.content = bytearray()


def queue_id(content: bytes) -> str:
    """The id in the first trace field; empty if there is none."""
    trace = re.match(rb"Received:(?:[^\r\n]|\r\n[ \t])*?\sid ([0-9A-Za-z.]+)", content)
    return trace.group(1).decode() if trace else ""


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("record")
    parser.add_argument("--timeout", type=float)
    parser.add_argument("--later-while")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    parser.add_argument("--no-chunking", action="store_true")
    arguments = parser.parse_args()
    Session.record = os.open(arguments.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    Session.chunking = not arguments.no_chunking
    Session.timeout = arguments.timeout
    Session.later_while = arguments.later_while
    if arguments.tls:
        Session.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        Session.tls.load_cert_chain(*arguments.tls)
    server = await asyncio.get_running_loop().create_server(Session, "127.0.0.1", arguments.port, backlog=1000,
                                                            reuse_address=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
