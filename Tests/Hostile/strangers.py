"""Hostile peers: SMTP clients that do wrong what others do right, and primaries that should not exist."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from harness import free_port  # noqa: E402

ANSWER_SECONDS = 60

ANY_CERTIFICATE = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ANY_CERTIFICATE.check_hostname = False
ANY_CERTIFICATE.verify_mode = ssl.CERT_NONE


class Client:
    """One TCP connection from an address of 127.0.0.0/8, with or without TLS; nothing is done that is not asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.secure: ssl.SSLObject | None = None
        self.buffer = b""

    @classmethod
    async def connect(cls, port: int, source: str, receive_buffer: int | None = None) -> "Client":
        peer = socket.socket()
        peer.setblocking(False)
        if receive_buffer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: 10,000 of them need it
        peer.bind((source, 0))
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", port)), ANSWER_SECONDS)
        except BaseException:
            peer.close()
            raise
        return cls(*await asyncio.open_connection(sock=peer, limit=1 << 20))

    def send(self, data: bytes) -> None:
        if self.secure is not None:
            self.secure.write(data)
            self.writer.write(self.outgoing.read())
        else:
            self.writer.write(data)

    async def drain(self) -> None:
        await self.writer.drain()

    async def line(self) -> bytes:
        """The next line; nothing when the connection ends before its end."""
        while b"\n" not in self.buffer:
            piece = await self.read()
            if not piece:
                return b""
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r")

    async def read(self) -> bytes:
        if self.secure is None:
            try:
                return await asyncio.wait_for(self.reader.read(65536), ANSWER_SECONDS)
            except ConnectionError:
                return b""
        while True:
            try:
                return self.secure.read(65536)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return b""
            try:
                piece = await asyncio.wait_for(self.reader.read(65536), ANSWER_SECONDS)
            except ConnectionError:
                return b""
            if not piece:
                return b""
            self.incoming.write(piece)

    async def code(self) -> str:
        """The code of the next reply, after its last line; `end` when the connection ended instead."""
        while True:
            line = await self.line()
            if not line:
                return "end"
            if line[3:4] != b"-":
                return line[:3].decode("ascii", "replace")

    async def ask(self, *lines: bytes) -> list[str]:
        """Sends the lines at once; a code for each."""
        self.send(b"".join(line + b"\r\n" for line in lines))
        return [await self.code() for _ in lines]

    async def hello(self) -> "Client":
        await self.code()
        await self.ask(b"EHLO hostile.test")
        return self

    async def start_tls(self) -> "Client":
        if (codes := await self.ask(b"STARTTLS")) != ["220"]:
            raise ConnectionError(f"STARTTLS: {codes}")
        self.begin_tls()
        await self.shake_hands()
        return self

    def begin_tls(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.pending = ANY_CERTIFICATE.wrap_bio(self.incoming, self.outgoing)

    async def shake_hands(self) -> None:
        while True:
            try:
                self.pending.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.writer.write(self.outgoing.read())
                piece = await asyncio.wait_for(self.reader.read(65536), ANSWER_SECONDS)
                if not piece:
                    raise ConnectionError("the server ended the handshake") from None
                self.incoming.write(piece)
        self.writer.write(self.outgoing.read())
        self.secure = self.pending

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """RST, unless the connection has gone already."""
        peer = self.writer.get_extra_info("socket")
        if peer.fileno() >= 0:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Primary:
    """A server that forwards are sent to. What it does is its `kind`:

    mute       accepts connections and never says a word
    dripping   its greeting comes at a byte a second
    endless    one reply of lines without end, as fast as they are taken
    sluggish   reads content at 2,000 bytes a second, through a small window
    recorder   takes everything and keeps the content of each message
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.port = free_port()
        self.connections = 0
        self.sent = 0
        self.contents: list[bytes] = []
        self.writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> "Primary":
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.kind == "sluggish":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        listener.bind(("127.0.0.1", self.port))
        self.server = await asyncio.start_server(self.joined, sock=listener, limit=1 << 24)
        return self

    def stop(self) -> None:
        """Gone, with all its connections."""
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()

    async def joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            await getattr(self, self.kind)(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)
            writer.transport.abort()

    async def mute(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass

    async def dripping(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"220 primary.test " + b"x" * 400 + b"\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)

    async def endless(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"220-" + b"x" * 60 + b"\r\n")
            self.sent += 66
            await writer.drain()

    async def sluggish(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._limit = 2_000  # type: ignore[attr-defined]  # the loop stops reading beyond twice this
        await self.converse(reader, writer, 2_000)

    async def recorder(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.converse(reader, writer, 0)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: int) -> None:
        writer.write(b"220 primary.test ESMTP\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(b"250-primary.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                content = bytearray()
                while not content.endswith(b"\r\n.\r\n") and content != b".\r\n":
                    # By lines of LF alone: whatever stands before it is recorded as it came.
                    content += await (reader.read(rate) if rate else reader.readuntil(b"\n"))
                    if rate:
                        await asyncio.sleep(1)
                self.contents.append(bytes(content))
                writer.write(b"250 2.0.0 taken\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                await writer.drain()
                return
            else:
                writer.write(b"250 2.0.0 ok\r\n")
