"""What hostile peers do, one function per case; the text of each is what a mail administrator would call it.

A case gets the `Field`, does its worst and returns what it saw. It raises `Failed` when the server's answer is wrong.
Whether bystanders, memory, callbacks and descriptors stand it, `hostile.py` judges from outside.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from proxy import Fault, Proxy
from strangers import Client, Primary

MESSAGE_SIZE = 10 << 20
"""`limits.messageSize` of these runs."""

MAIL = b"MAIL FROM:<hostile@sender.test>"
KNOWN = b"RCPT TO:<user@recorded.test>"
UNKNOWN = b"RCPT TO:<user%d@elsewhere.example>"


class Failed(Exception):
    """The server answered what it must not."""


@dataclasses.dataclass
class Seen:
    """What a case has to tell, and what its memory bound needs to know."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    connections: int = 0
    """Open at the same time."""
    encrypted: int = 0
    """Of these, with TLS."""
    commands: int = 0
    """Which the log may know of, beside the connections."""
    content: bool = False
    """Whether content was under way, which `limits.messageMemory` bounds."""
    pipelining: bool = False
    """Whether each connection keeps the server from reading what it has sent ahead."""
    total: int = 0
    """Connections in all, when more than were open at a time."""
    words: str = ""


@dataclasses.dataclass
class Field:
    """Where the cases take place."""

    port: int
    recorder: Primary
    short: bool
    luck: random.Random
    create: Callable[[str, int], Awaitable[None]]
    delete: Callable[[str], Awaitable[None]]
    sample: Callable[[], Awaitable[None]]
    """Meters the server at the case's worst moment."""
    networks: int = 0

    def network(self) -> int:
        """A number of a /16 in 127.0.0.0/8 that nobody has used, for a case that must not inherit another's record."""
        self.networks += 1
        return 100 + self.networks

    def scaled(self, number: int) -> int:
        return max(1, number // 10) if self.short else number

    async def client(self, source: str) -> Client:
        return await (await Client.connect(self.port, source)).hello()


async def together(work: Iterable[Awaitable[None]], at_once: int = 500) -> None:
    gate = asyncio.Semaphore(at_once)

    async def one(job: Awaitable[None]) -> None:
        async with gate:
            await job

    await asyncio.gather(*(one(job) for job in work))


def expect(condition: bool, text: str) -> None:
    if not condition:
        raise Failed(text)


async def many(field: Field, count: int, networks: int, open_one: Callable[[Client, int], Awaitable[None]],
               seen: Seen) -> list[Client]:
    """That many connections, open at once, from so many /24 networks of one /16."""
    clients: list[Client] = []
    network = field.network()

    async def join(number: int) -> None:
        client = await Client.connect(field.port, f"127.{network}.{number % networks}.{1 + number // networks % 250}")
        clients.append(client)
        await open_one(client, number)

    await together((join(number) for number in range(count)), 200)
    seen.connections = count
    return clients


def close(clients: list[Client]) -> None:
    for client in clients:
        client.reset()


# Slowness (T-D1)

async def slow_commands(field: Field) -> Seen:
    """a command of one byte every ten seconds"""
    seen = Seen()

    async def greet(client: Client, _: int) -> None:
        seen.counts[await client.code()] += 1

    clients = await many(field, field.scaled(400), 4, greet, seen)
    for byte in b"EHLO"[:2 if field.short else 4]:
        for client in clients:
            client.send(bytes([byte]))
        await field.sample()
        await asyncio.sleep(1 if field.short else 10)
    close(clients)
    seen.words = f"{len(clients)} sessions held for {2 if field.short else 40} s"
    return seen


async def slow_content(field: Field) -> Seen:
    """DATA at 100 bytes a second: ended within two minutes, the rate being looked at every minute"""
    seen = Seen(content=True)
    seconds, began = 330, time.monotonic()

    async def begin(client: Client, _: int) -> None:
        await client.hello()
        seen.counts.update(await client.ask(MAIL, KNOWN, b"DATA"))

    clients = await many(field, field.scaled(100), 2, begin, seen)
    living = list(clients)
    while living and time.monotonic() - began < seconds:
        for client in living:
            client.send(b"x" * 98 + b"\r\n")
        await asyncio.sleep(1)
        living = [client for client in living if not client.reader.at_eof() and not client.reader.exception()
                  and not client.writer.is_closing()]
    await field.sample()
    took = time.monotonic() - began
    expect(not living and took < 130, f"{len(clients) - len(living)} of {len(clients)} were ended, in {took:.0f} s")
    seen.words = f"{len(clients) - len(living)} of {len(clients)} ended within {took:.0f} s"
    close(clients)
    return seen


async def deaf(field: Field) -> Seen:
    """commands with long replies, as many as the server takes, and no reply is ever read"""
    seen = Seen(pipelining=True)
    clients: list[Client] = []
    network = field.network()

    async def flood(number: int) -> None:
        client = await Client.connect(field.port, f"127.{network}.{number % 4}.1", receive_buffer=2_048)
        client.reader._limit = 1  # type: ignore[attr-defined]  # the loop takes nothing off the socket
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        clients.append(client)
        client.send([b"EHLO d\r\n", b"VRFY d\r\n", b"NOOP\r\n"][number % 3] * 4_900)
        await asyncio.sleep(0.02)

    await together(flood(number) for number in range(field.scaled(600)))
    for _ in range(4):
        await asyncio.sleep(0.5)
        await field.sample()
    seen.connections, seen.commands = len(clients), len(clients) * 4_900
    seen.words = f"{seen.commands} commands"
    close(clients)
    return seen


# Primaries

async def towards(field: Field, kind: str, messages: int, size: int, seconds: float) -> Seen:
    """Mail for a gateway whose primary is of this kind; then the gateway goes, with its mail."""
    seen = Seen(content=True)
    primary = await Primary(kind).start()
    domain = f"{kind}.test"
    await field.create(domain, primary.port)
    network = field.network()

    async def hand_in(number: int) -> None:
        client = await field.client(f"127.{network}.{number % 8}.1")
        for _ in range(messages // 8):
            seen.counts.update(await client.ask(MAIL, b"RCPT TO:<user@" + domain.encode() + b">", b"DATA"))
            client.send((b"x" * 76 + b"\r\n") * (size // 78) + b".\r\n")
            seen.counts[await client.code()] += 1
        client.close()

    await together(hand_in(number) for number in range(8))
    for _ in range(int(seconds)):
        await asyncio.sleep(1)
        await field.sample()
    primary.stop()
    await field.delete(domain)
    seen.connections = 8 + 20
    seen.commands = messages * 4 + primary.connections * 20
    expect(seen.counts["250"] == messages // 8 * 8 * 3, f"mail for a {kind} primary was not taken: {seen.counts}")
    seen.words = f"{primary.connections} sessions"
    if kind == "endless":
        rate = primary.sent / max(primary.connections, 1)
        expect(rate < 8 << 20, f"{rate:.0f} bytes of one endless reply were read")
        seen.words += f", {rate:.0f} bytes of reply each"
    return seen


async def mute_primary(field: Field) -> Seen:
    """a primary that never says a word"""
    return await towards(field, "mute", 400, 2_000, 1 if field.short else 5)


async def dripping_primary(field: Field) -> Seen:
    """a primary that greets at one byte a second"""
    return await towards(field, "dripping", 400, 2_000, 1 if field.short else 15)


async def endless_primary(field: Field) -> Seen:
    """a primary whose reply has lines without end"""
    return await towards(field, "endless", 400, 2_000, 1 if field.short else 5)


async def sluggish_primary(field: Field) -> Seen:
    """a primary that reads at 2,000 bytes a second"""
    return await towards(field, "sluggish", 160, 200_000, 2 if field.short else 15)


# Floods (T-D2, T-D3, T-D4)

async def connection_flood(field: Field) -> Seen:
    """connections from many addresses, each ended at once"""
    seen = Seen()
    network, count = field.network(), field.scaled(10_000)

    async def knock(number: int) -> None:
        try:
            client = await Client.connect(field.port, f"127.{network}.{number % 200}.{1 + number // 200}")
            seen.counts[await client.code()] += 1
            client.reset()
        except OSError:
            seen.counts["failed"] += 1

    await together((knock(number) for number in range(count)), 400)
    await field.sample()
    seen.connections, seen.total = 400, count
    expect(seen.counts["220"] == count, f"some were not greeted, though each network had few: {seen.counts}")
    return seen


async def one_network(field: Field) -> Seen:
    """1,000 connections at once from one network, of which 200 are allowed"""
    seen = Seen()

    async def greet(client: Client, _: int) -> None:
        seen.counts[await client.code()] += 1

    clients = await many(field, 1_000, 1, greet, seen)
    await field.sample()
    close(clients)
    expect(seen.counts["220"] <= 202, f"the limit of one network does not hold: {seen.counts}")
    expect(seen.counts["220"] + seen.counts["421"] == 1_000, f"not 220 or 421: {seen.counts}")
    return seen


async def idle_sessions(field: Field) -> Seen:
    """10,000 sessions that say EHLO and nothing more"""
    seen = Seen()

    async def greet(client: Client, _: int) -> None:
        seen.counts[await client.code()] += 1
        seen.counts.update(await client.ask(b"EHLO idle.test"))

    clients = await many(field, field.scaled(10_000), 100, greet, seen)
    await field.sample()
    await asyncio.sleep(1 if field.short else 5)
    await field.sample()
    expect(seen.counts == {"220": len(clients), "250": len(clients)}, f"not all were served: {seen.counts}")
    close(clients)
    return seen


async def many_recipients(field: Field) -> Seen:
    """1,100 recipients in one message, 20 times"""
    seen = Seen()
    network = field.network()

    async def flood(number: int) -> None:
        client = await field.client(f"127.{network}.{number}.1")
        seen.counts.update(await client.ask(MAIL))
        seen.counts.update(await client.ask(*(b"RCPT TO:<user%d@recorded.test>" % at for at in range(1_100))))
        client.reset()

    await together(flood(number) for number in range(20))
    await field.sample()
    seen.connections, seen.commands = 20, 20 * 1_100
    expect(seen.counts["452"] == 20 * 100, f"not 100 of each 1,100 were refused: {seen.counts}")
    return seen


async def unknown_recipients(field: Field) -> Seen:
    """recipients that don't exist, guessed as fast as the server lets"""
    seen = Seen()
    network, began = field.network(), time.monotonic()
    count = field.scaled(200)

    async def guess(number: int) -> None:
        client = await field.client(f"127.{network}.{number % 8}.1")
        await client.ask(MAIL)
        for at in range(1_000):
            client.send(UNKNOWN % at + b"\r\n")
            code = await client.code()
            seen.counts[code] += 1
            if code in ("421", "end"):
                break
        client.reset()

    await together(guess(number) for number in range(count))
    await field.sample()
    seen.connections = count
    seen.commands = sum(seen.counts.values())
    expect(seen.counts["421"] == count and seen.counts["250"] == 0, f"guessing was not ended: {seen.counts}")
    expect(time.monotonic() - began > 8, "guessing was not slowed down")
    return seen


async def broken_off(field: Field) -> Seen:
    """messages broken off just below the size limit, over and over"""
    seen = Seen(content=True)
    network = field.network()
    piece = (b"x" * 76 + b"\r\n") * 1_000

    async def try_one(number: int) -> None:
        client = await field.client(f"127.{network}.7.{1 + number}")
        codes = await client.ask(MAIL, KNOWN, b"DATA")
        seen.counts.update(codes[2:])
        if codes[2] == "354":
            for _ in range((MESSAGE_SIZE - 100_000) // len(piece)):
                client.send(piece)
                await client.drain()
        await asyncio.sleep(0.1)
        client.reset()

    for number in range(30):
        await try_one(number)
        if number % 4 == 0:
            await field.sample()
    # Two reactors count for themselves, and a neighbour is no accomplice.
    expect(seen.counts["421"] > 0, f"never held off: {seen.counts}")
    other = await field.client(f"127.{network}.8.1")
    codes = await other.ask(MAIL, KNOWN, b"DATA")
    expect(codes[2] == "354", f"another network is held off too: {codes}")
    other.reset()
    seen.connections, seen.total = 2, 31
    return seen


# Lines, bytes, headers (T-A1, T-A5…T-A9)

async def endless_line(field: Field) -> Seen:
    """a command without end, and a text line of nine megabytes"""
    seen = Seen(content=True)
    network = field.network()

    async def command(number: int) -> None:
        client = await field.client(f"127.{network}.{number}.1")
        try:
            for _ in range(32):
                client.send(b"A" * 32_768)
                await client.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        seen.counts["command " + await client.code()] += 1
        client.reset()

    async def text(number: int) -> None:
        client = await field.client(f"127.{network}.{100 + number}.1")
        await client.ask(MAIL, KNOWN, b"DATA")
        client.send(b"Subject: long\r\n\r\n")
        for _ in range(9 * 32):
            client.send(b"B" * 32_768)
            await client.drain()
        client.send(b"\r\n.\r\n")
        seen.counts["text " + await client.code()] += 1
        client.close()

    await together([*(command(number) for number in range(20)), *(text(number) for number in range(4))])
    await field.sample()
    seen.connections = 24
    expect(seen.counts["command 500"] + seen.counts["command end"] == 20, f"endless commands: {seen.counts}")
    expect(seen.counts["text 250"] == 4, f"a long line is text as any other: {seen.counts}")
    return seen


async def garbage(field: Field) -> Seen:
    """noise, NULs, HTTP and TLS where SMTP is spoken"""
    seen = Seen()
    network, count = field.network(), field.scaled(1_000)

    async def shout(number: int) -> None:
        client = await Client.connect(field.port, f"127.{network}.{number % 16}.1")
        await client.code()
        noise = [field.luck.randbytes(4_000), b"\0" * 4_000, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                 b"\x16\x03\x01\x02\x00" + field.luck.randbytes(512), b"\r\n" * 2_000, b"\n" * 2_000, b"\xff" * 4_000,
                 b"EHLO x\0y\r\nMAIL FROM:<\0@x>\r\nRCPT TO:<a\rb@x>\r\n"][number % 8]
        try:
            client.send(noise)
            await asyncio.wait_for(client.drain(), 5)
            code = await asyncio.wait_for(client.code(), 3)
        except TimeoutError:
            code = "silence"
        except OSError:
            code = "end"
        seen.counts[code] += 1
        client.reset()

    await together((shout(number) for number in range(count)), 100)
    await field.sample()
    seen.connections, seen.total, seen.commands = 100, count, count * 21
    expect(not seen.counts.keys() & {"250", "354"}, f"noise was taken for a command: {seen.counts}")
    return seen


SMUGGLED = [b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n", b"\r\n\0.\r\n", b"\r\n.\n", b"\r\n.\r",
            b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n.\0\r\n", b"\r\n\n.\r\n", b"\r\n\r.\r\n", b"\n\n.\n\n", b"\r\n..\n"]


async def smuggling(field: Field) -> Seen:
    """a second message behind what is no end of DATA (T-A1)"""
    seen = Seen(content=True)
    network, before = field.network(), len(field.recorder.contents)
    for number, sequence in enumerate(SMUGGLED):
        client = await field.client(f"127.{network}.{number}.1")
        await client.ask(MAIL, KNOWN, b"DATA")
        client.send(b"Subject: first %d\r\n\r\nx" % number + sequence + MAIL + b"\r\nRCPT TO:<smuggled@recorded.test>"
                    b"\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n")
        client.send(b"QUIT\r\n")
        codes = []
        while not codes or codes[-1] not in ("end", "221"):
            codes.append(await client.code())
        seen.counts[codes[0]] += 1
        client.reset()
        # 250 only where the whole of it is the content of one message.
        expect(codes in (["550", "end"], ["250", "221"]), f"{sequence!r}: {codes}")
    # Verbatim octets get no better treatment.
    for sequence in SMUGGLED:
        client = await field.client(f"127.{network}.99.1")
        content = b"Subject: chunk\r\n\r\nx" + sequence + b"y\r\n"
        client.send(MAIL + b"\r\n" + KNOWN + b"\r\nBDAT %d LAST\r\n" % len(content) + content)
        seen.counts["BDAT " + [await client.code() for _ in range(3)][2]] += 1
        client.reset()
    await asyncio.sleep(2)
    bare = 0
    for content in field.recorder.contents[before:]:
        bare += content.replace(b"\r\n", b"").count(b"\r") + content.replace(b"\r\n", b"").count(b"\n")
        expect(not content.startswith(b"Subject: smuggled") and b"\r\nSubject: smuggled" not in
               content.partition(b"\r\n\r\n")[0], "a smuggled message arrived")
    expect(bare == 0, f"{bare} bare CR or LF were handed on")
    seen.connections, seen.total = 1, 2 * len(SMUGGLED)
    seen.words = f"{len(field.recorder.contents) - before} reached the primary, without a bare CR or LF"
    return seen


async def dots(field: Field) -> Seen:
    """dot lines of all kinds, in DATA and BDAT: the content arrives as it was"""
    seen = Seen(content=True)
    network, before = field.network(), len(field.recorder.contents)
    text = b"Subject: dots\r\n\r\n.\r\n..\r\n...x\r\n.x\r\n\r\n.\r\nend\r\n"
    stuffed = text.replace(b"\r\n.", b"\r\n..")
    client = await field.client(f"127.{network}.1.1")
    seen.counts.update(await client.ask(MAIL, KNOWN, b"DATA"))
    client.send(stuffed + b".\r\n")
    seen.counts[await client.code()] += 1
    client.send(MAIL + b"\r\n" + KNOWN + b"\r\nBDAT 20\r\n" + text[:20] + b"BDAT %d LAST\r\n" % (len(text) - 20)
                + text[20:])
    seen.counts.update([await client.code() for _ in range(4)])
    client.close()
    for _ in range(100):
        if len(field.recorder.contents) >= before + 2:
            break
        await asyncio.sleep(0.05)
    arrived = [content.partition(b"Subject: dots")[2] for content in field.recorder.contents[before:]]
    expect(arrived == [(stuffed + b".\r\n").partition(b"Subject: dots")[2]] * 2, f"changed on its way: {arrived}")
    seen.connections = 1
    return seen


async def header_bombs(field: Field) -> Seen:
    """100,000 fields, a field of 3 MiB, 5,000 Received, a header without a body (T-A9)"""
    seen = Seen(content=True)
    network = field.network()
    slowest = 0.0
    for name, header in (("fields", b"To: a@b.example\r\n" * 100_000), ("field", b"X: " + b"y" * (3 << 20) + b"\r\n"),
                         ("folded", b"X: y\r\n" + b" y\r\n" * 600_000), ("addresses", b"To: " + b"a@b," * 700_000),
                         ("received", b"Received: from a by b; x\r\n" * 5_000), ("colons", b":" * 500_000 + b"\r\n"),
                         ("blank", b" \r\n" * 100_000), ("2231", b"Content-Type: a/b" + b"; n*0*=x" * 100_000)):
        client = await field.client(f"127.{network}.{len(seen.counts)}.1")
        await client.ask(MAIL, KNOWN, b"DATA")
        began = time.monotonic()
        client.send(header + b"\r\n\r\nbody\r\n.\r\n")
        await client.drain()
        code = await client.code()
        slowest = max(slowest, time.monotonic() - began)
        seen.counts[f"{name} {code}"] += 1
        expect(code in ("250", "554"), f"{name}: {code}")
        client.close()
    await field.sample()
    expect(seen.counts["received 554"] == 1, f"5,000 Received fields are a loop: {seen.counts}")
    seen.connections, seen.total = 1, 8
    seen.words = f"slowest answer after {slowest:.2f} s"
    return seen


async def tiny_chunks(field: Field) -> Seen:
    """BDAT of one byte each: 4,000 are a message, 21,000 are not (T-A5)"""
    seen = Seen(content=True)
    network = field.network()

    async def drip(number: int, chunks: int) -> None:
        client = await field.client(f"127.{network}.{number}.1")
        await client.ask(MAIL, KNOWN)
        received: Counter[str] = Counter()

        async def listen() -> None:
            while (code := await client.code()) != "end":
                received[code] += 1
                if code[0] != "2" or sum(received.values()) == chunks + 1:
                    break

        listening = asyncio.create_task(listen())
        try:
            for at in range(0, chunks, 1_000):
                client.send(b"BDAT 1\r\nx" * 1_000)
                await client.drain()
            client.send(b"BDAT 2 LAST\r\n\r\n")
        except ConnectionError:
            pass
        await listening
        worst = max(received)
        seen.counts[f"{chunks} chunks {worst}"] += 1
        client.reset()

    await together([drip(0, 4_000), drip(1, 21_000), drip(2, 21_000)])
    await field.sample()
    seen.connections, seen.commands = 3, 50
    expect(seen.counts["4000 chunks 250"] == 1 and seen.counts["21000 chunks 250"] == 0, f"chunks: {seen.counts}")
    return seen


# TLS (T-B1, T-B7)

async def injection(field: Field) -> Seen:
    """commands in plaintext behind STARTTLS, in one segment (T-B1)"""
    seen = Seen()
    network = field.network()
    for number in range(20):
        client = await field.client(f"127.{network}.{number}.1")
        client.begin_tls()
        try:
            client.pending.do_handshake()
        except ssl.SSLWantReadError:
            pass
        client.send(b"STARTTLS\r\nEHLO injected.test\r\n" + MAIL + b"\r\n" + KNOWN + b"\r\n")
        expect(await client.code() == "220", "no STARTTLS")
        await asyncio.sleep(0.02)
        try:
            await client.shake_hands()
        except (ConnectionError, ssl.SSLError):
            seen.counts["ended"] += 1
            client.reset()
            continue
        codes = await client.ask(KNOWN)
        seen.counts[codes[0]] += 1
        expect(codes == ["503"], f"injected commands were carried out: RCPT got {codes}")
        expect((await client.ask(b"EHLO secure.test", MAIL, KNOWN)) == ["250"] * 3, "the session is unusable")
        client.reset()
    seen.connections = seen.encrypted = 1
    seen.total, seen.commands = 20, 100
    return seen


async def stalled_handshakes(field: Field) -> Seen:
    """1,000 handshakes that stop after half a ClientHello; the server ends them after a minute"""
    seen = Seen()

    async def begin(client: Client, _: int) -> None:
        await client.hello()
        seen.counts.update(await client.ask(b"STARTTLS"))
        client.begin_tls()
        try:
            client.pending.do_handshake()
        except ssl.SSLWantReadError:
            pass
        client.send(client.outgoing.read()[:100])

    began = time.monotonic()
    clients = await many(field, field.scaled(1_000), 100, begin, seen)
    seen.encrypted = len(clients)
    await field.sample()
    if not field.short:
        ended = 0
        for client in clients:
            ended += not await asyncio.wait_for(client.reader.read(1), 100)
        expect(ended == len(clients), f"{ended} of {len(clients)} were ended")
        seen.words = f"all ended after {time.monotonic() - began:.0f} s"
    close(clients)
    return seen


async def handshake_flood(field: Field) -> Seen:
    """full handshakes, one after the other, from 8 networks (T-B7)"""
    seen = Seen()
    network, until = field.network(), time.monotonic() + (3 if field.short else 12)

    async def shake(number: int) -> None:
        while time.monotonic() < until:
            try:
                client = await field.client(f"127.{network}.{number % 8}.1")
                await client.start_tls()
                seen.counts["secured"] += 1
            except (OSError, ssl.SSLError) as refusal:
                seen.counts[str(refusal)[:40]] += 1
                await asyncio.sleep(0.05)
            client.reset()

    await together(shake(number) for number in range(32))
    await field.sample()
    seen.connections = seen.encrypted = 32
    seen.total = sum(seen.counts.values())
    return seen


async def held_tls(field: Field) -> Seen:
    """TLS sessions that have sent one byte of a command: what each of them costs"""
    seen = Seen()

    async def begin(client: Client, _: int) -> None:
        await client.hello()
        await client.start_tls()
        client.send(b"E")
        seen.counts["secured"] += 1

    clients = await many(field, field.scaled(1_000), 100, begin, seen)
    seen.encrypted = len(clients)
    await asyncio.sleep(1)
    await field.sample()
    close(clients)
    return seen


async def tls_ends_in_chunk(field: Field) -> Seen:
    """close_notify in the middle of a BDAT, then plaintext (T-A3)"""
    seen = Seen(content=True)
    network, before = field.network(), len(field.recorder.contents)
    for number in range(20):
        client = await field.client(f"127.{network}.{number}.1")
        await client.start_tls()
        await client.ask(b"EHLO secure.test", MAIL, KNOWN)
        client.send(b"BDAT 20 LAST\r\nSubject: x")
        try:
            client.pending.unwrap()
        except ssl.SSLError:
            pass
        client.writer.write(client.outgoing.read() + b"\r\n\r\nrest\r\nQUIT\r\n")
        try:
            code = await client.code()
        except OSError:
            code = "end"
        seen.counts[code] += 1
        client.reset()
    await asyncio.sleep(1)
    expect(seen.counts["250"] == 0, f"content behind the end of TLS was taken: {seen.counts}")
    expect(len(field.recorder.contents) == before, "half a message reached the primary")
    seen.connections = seen.encrypted = 1
    seen.total = 20
    return seen


async def one_byte_records(field: Field) -> Seen:
    """a whole session in TLS records of one byte, 20 at once"""
    seen = Seen(content=True)
    network = field.network()

    async def speak(number: int) -> None:
        client = await field.client(f"127.{network}.{number}.1")
        await client.start_tls()

        async def spell(text: bytes) -> None:
            assert client.secure is not None
            for byte in text:
                client.secure.write(bytes([byte]))
            client.writer.write(client.outgoing.read())
            await client.drain()

        await spell(b"EHLO spelling.test\r\n")
        seen.counts[await client.code()] += 1
        await spell(MAIL + b"\r\n" + KNOWN + b"\r\nDATA\r\n")
        seen.counts.update([await client.code() for _ in range(3)])
        await spell(b"Subject: spelled\r\n\r\n" + (b"y" * 76 + b"\r\n") * (25 if field.short else 250) + b".\r\n")
        seen.counts[await client.code()] += 1
        client.close()

    await together(speak(number) for number in range(20))
    await field.sample()
    seen.connections = seen.encrypted = 20
    expect(seen.counts == {"250": 80, "354": 20}, f"not all were taken: {seen.counts}")
    return seen


# Ends of connections

async def half_close(field: Field) -> Seen:
    """FIN right behind the dot: the 250 still comes, or the message is not there"""
    seen = Seen(content=True)
    network, before = field.network(), len(field.recorder.contents)

    async def send(number: int) -> None:
        client = await field.client(f"127.{network}.{number % 8}.1")
        await client.ask(MAIL, KNOWN, b"DATA")
        client.send(b"Subject: half %d\r\n\r\nx\r\n.\r\n" % number)
        client.writer.write_eof()
        seen.counts[await client.code()] += 1
        client.reset()

    await together(send(number) for number in range(40))
    await asyncio.sleep(2)
    arrived = len(field.recorder.contents) - before
    seen.connections = 40
    expect(arrived >= seen.counts["250"], f"{seen.counts['250']} promised, {arrived} arrived")
    seen.words = f"{arrived} arrived"
    return seen


async def resets(field: Field) -> Seen:
    """RST at every stage of a session, in plaintext and TLS"""
    seen = Seen(content=True)
    network = field.network()
    piece = b"Subject: x\r\n\r\n" + b"y" * 50_000

    async def leave(number: int) -> None:
        stage, secure = number % 10, number % 20 >= 10
        client = await Client.connect(field.port, f"127.{network}.{number % 16}.1")
        try:
            if stage >= 1:
                await client.hello()
            if secure and stage >= 2:
                await client.start_tls()
                await client.ask(b"EHLO secure.test")
            if stage >= 3:
                await client.ask(MAIL)
            if stage >= 4:
                await client.ask(KNOWN)
            if stage >= 5:
                client.send(b"DATA\r\n")
            if stage >= 6:
                await client.code()
            if stage == 7:
                client.send(piece)
            if stage >= 8:
                client.send(piece + b"\r\n.\r\n" + (b"QUIT\r\n" if stage == 9 else b""))
            await asyncio.sleep(field.luck.random() / 100)
            seen.counts[f"stage {stage}"] += 1
        finally:
            client.reset()

    await together((leave(number) for number in range(field.scaled(1_000))), 100)
    await field.sample()
    seen.connections, seen.encrypted, seen.total = 100, 50, field.scaled(1_000)
    seen.counts = Counter({"reset": sum(seen.counts.values())})
    return seen


async def cut_everywhere(field: Field) -> Seen:
    """a message over a connection that is cut behind byte 0, 1, 2…, of either direction"""
    seen = Seen(content=True)
    before = len(field.recorder.contents)
    proxy = Proxy(field.port).start()
    content = b"Subject: cut %d\r\n\r\n" + b"one line and another\r\n" * 6
    promised: set[int] = set()
    step = 11 if field.short else 1
    places = [(Fault(cut=at), Fault()) for at in range(0, 340, step)]
    places += [(Fault(), Fault(cut=at)) for at in range(0, 520, step)]
    for number, faults in enumerate(places):
        proxy.draw = lambda faults=faults: faults  # type: ignore[misc]
        try:
            client = await Client.connect(proxy.port, "127.0.0.1")
        except ConnectionResetError:  # cut before we looked
            continue
        codes = [await client.code()]
        for line in (b"EHLO cut.test", MAIL, KNOWN, b"DATA", content % number + b"."):
            if codes[-1] != "end":
                client.send(line + b"\r\n")
                codes.append(await client.code())
        client.reset()
        if codes[5:] == ["250"]:
            promised.add(number)
        expect(set(codes) <= {"220", "250", "354", "end"}, f"{faults}: {codes}")
    await asyncio.sleep(2)
    arrived: Counter[int] = Counter()
    for got in field.recorder.contents[before:]:
        _, found, rest = got.partition(b"Subject: cut ")
        if not found:
            continue  # of the case before
        number = int(rest.partition(b"\r")[0])
        expect(got.endswith(content % number + b".\r\n"), f"cut {number}: changed on its way: {got!r}")
        arrived[number] += 1
    expect(promised <= arrived.keys(), f"promised and not there: {promised - arrived.keys()}")
    expect(max(arrived.values(), default=0) <= 1, f"arrived twice: {arrived}")
    seen.connections, seen.total, seen.commands = 1, len(places), 6 * len(places)
    seen.words = f"{len(promised)} promised, {len(arrived)} arrived, each whole"
    return seen


# Claims (T-C3)

async def claims(field: Field) -> Seen:
    """PROXY and XCLIENT from peers that nobody trusts"""
    seen = Seen()
    network = field.network()
    for number in range(10):
        client = await Client.connect(field.port, f"127.{network}.{number}.1")
        client.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n")
        expect(await client.code() == "220", "no greeting")
        code = await client.code()
        seen.counts["PROXY " + code] += 1
        expect(code[0] == "5", f"PROXY: {code}")
        client.send(b"EHLO x.test\r\n")
        while (line := await client.line())[3:4] == b"-":
            expect(b"XCLIENT" not in line, "XCLIENT is offered")
        code, = await client.ask(b"XCLIENT ADDR=192.0.2.1 NAME=trusted.example")
        seen.counts["XCLIENT " + code] += 1
        expect(code[0] == "5", f"XCLIENT: {code}")
        client.reset()
    binary = await Client.connect(field.port, f"127.{network}.99.1")
    await binary.code()
    binary.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + os.urandom(12) + b"\r\n")
    seen.counts["binary PROXY " + await binary.code()] += 1
    binary.reset()
    seen.connections, seen.total, seen.commands = 1, 11, 40
    return seen


CASES: list[Callable[[Field], Awaitable[Seen]]] = [
    slow_commands, deaf, mute_primary, dripping_primary, endless_primary, sluggish_primary, connection_flood,
    one_network, idle_sessions, many_recipients, unknown_recipients, broken_off, endless_line, garbage, smuggling, dots,
    header_bombs, tiny_chunks, injection, handshake_flood, held_tls, tls_ends_in_chunk, one_byte_records, half_close,
    resets, cut_everywhere, claims, stalled_handshakes, slow_content]

LONG = [slow_content]
"""Not in the short form: what they wait for takes a minute."""
