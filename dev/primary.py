"""A small primary for `make run`: takes every message by SMTP and prints one line for it. Nothing is kept.

    14:20:07  <me@example.org> → <you@demo.test>  "hello"  714 bytes  id 0Rk5sGq0Wb700000000G1J

The id is the gateway's queue id, from the `Received` field that it put on top.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field

SIZE_MAX = 64 * 1024 * 1024
"""Bytes of one message."""
LINE_MAX = 64 * 1024
"""Bytes read as one piece; a longer content line comes in several, a longer command ends the session."""
RECIPIENTS_MAX = 1_000
SHOWN_MAX = 100
"""Characters of an address or a subject that are printed."""
SILENCE_SECONDS = 300

PATH = re.compile(r"(FROM|TO):\s*<([^>]*)>(.*)", re.IGNORECASE)
ID = re.compile(rb"\sid\s+([0-9A-Za-z]+)")


def shown(text: str) -> str:
    """Text from outside, safe on a terminal."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"


@dataclass
class Transaction:
    sender: str
    recipients: list[str] = field(default_factory=list)

    def line(self, content: bytes) -> str:
        head = content[:LINE_MAX].partition(b"\r\n\r\n")[0]
        message = email.message_from_bytes(head, policy=email.policy.default)
        try:
            subject = str(message.get("Subject", ""))
        except (ValueError, IndexError, LookupError):
            subject = "(unreadable)"
        received = re.match(rb"Received:(?:[^\r]|\r\n[ \t])*", head)
        identifier = ID.search(received[0]) if received else None
        to = f"<{shown(self.recipients[0])}>"
        if len(self.recipients) > 1:
            to += f" and {len(self.recipients) - 1} more"
        return (f"{time.strftime('%H:%M:%S')}  <{shown(self.sender)}> → {to}  \"{shown(subject)}\"  "
                f"{len(content)} bytes  id {identifier[1].decode() if identifier else '(none)'}")


class Session:
    """One SMTP session. Commands are read one after another, so a client may send them in one flight (PIPELINING)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.transaction: Transaction | None = None

    def reply(self, *lines: str) -> None:
        for line in lines:
            self.writer.write(line.encode() + b"\r\n")

    async def run(self) -> None:
        try:
            async with asyncio.timeout(None) as silence:
                self.reply("220 primary.demo.test ESMTP")
                while True:
                    silence.reschedule(asyncio.get_running_loop().time() + SILENCE_SECONDS)
                    await self.writer.drain()
                    line = (await self.reader.readuntil(b"\r\n")).decode("utf-8", "replace").strip()
                    if not await self.command(line):
                        break
                await self.writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # gone, silent or talking nonsense: the session ends
        finally:
            self.writer.close()

    async def command(self, line: str) -> bool:
        """Answers one command; False when the session is over."""
        verb, _, argument = line.partition(" ")
        match verb.upper():
            case "EHLO":
                self.transaction = None
                self.reply("250-primary.demo.test", "250-PIPELINING", f"250-SIZE {SIZE_MAX}", "250-8BITMIME",
                           "250 SMTPUTF8")
            case "HELO":
                self.transaction = None
                self.reply("250 primary.demo.test")
            case "MAIL":
                self.mail(argument)
            case "RCPT":
                self.recipient(argument)
            case "DATA" if self.transaction and self.transaction.recipients:
                self.reply("354 Go ahead")
                await self.writer.drain()
                await self.data(self.transaction)
                self.transaction = None
            case "DATA":
                self.reply("503 RCPT first")
            case "RSET":
                self.transaction = None
                self.reply("250 Ok")
            case "NOOP":
                self.reply("250 Ok")
            case "QUIT":
                self.reply("221 Bye")
                return False
            case _:
                self.reply("500 Unknown command")
        return True

    def mail(self, argument: str) -> None:
        path = PATH.match(argument)
        size = re.search(r"\bSIZE=(\d{1,15})\b", path[3], re.IGNORECASE) if path else None
        if path is None or path[1].upper() != "FROM":
            self.reply("501 Syntax: MAIL FROM:<address>")
        elif size and int(size[1]) > SIZE_MAX:
            self.reply("552 Too big")
        else:
            self.transaction = Transaction(path[2])
            self.reply("250 Ok")

    def recipient(self, argument: str) -> None:
        path = PATH.match(argument)
        if self.transaction is None:
            self.reply("503 MAIL first")
        elif path is None or path[1].upper() != "TO" or not path[2]:
            self.reply("501 Syntax: RCPT TO:<address>")
        elif len(self.transaction.recipients) >= RECIPIENTS_MAX:
            self.reply("452 Too many recipients")
        else:
            self.transaction.recipients.append(path[2])
            self.reply("250 Ok")

    async def data(self, transaction: Transaction) -> None:
        content = bytearray()
        size = 0
        at_line_start = True
        while True:
            try:
                piece = await self.reader.readuntil(b"\r\n")
            except asyncio.LimitOverrunError as overrun:
                piece = await self.reader.readexactly(overrun.consumed)
            if at_line_start and piece.startswith(b"."):
                if piece == b".\r\n":
                    break
                piece = piece[1:]
            at_line_start = piece.endswith(b"\r\n")
            size += len(piece)
            if size <= SIZE_MAX:
                content += piece
        if size > SIZE_MAX:
            self.reply("552 Too big")
            return
        print(transaction.line(bytes(content)), flush=True)
        self.reply("250 Thank you")


async def serve(host: str, port: int) -> int:
    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await Session(reader, writer).run()
        except asyncio.CancelledError:
            pass  # the program ends, and the gateway kept its connection for more mail

    try:
        server = await asyncio.start_server(session, host, port, limit=LINE_MAX)
    except OSError as error:
        print(f"the demo primary cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}", file=sys.stderr)
        return 1
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.close()
    return 0


if __name__ == "__main__":
    listen_host, _, listen_port = sys.argv[1].rpartition(":")
    sys.exit(asyncio.run(serve(listen_host, int(listen_port))))
