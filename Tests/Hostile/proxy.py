"""A TCP proxy that is the worst network a mail server will see, by a script or from a seed.

    proxy.py PORT TARGET_PORT --seed S [--calm 0.5]        or, in a program: Proxy(target).start(), .faults(Fault(…))

One connection has one fault in each direction. From a seed, `calm` of the connections have none. Faults:

    delay S        every piece waits           cut N         both sides reset after byte N
    slow B         bytes a second              half_close N  after byte N the receiver sees the end, the rest is dropped
    split          segments of one byte        stall N       after byte N nothing more, and no end
    hold S         the first piece waits       reset         RST instead of FIN where one side ends
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from harness import free_port  # noqa: E402

PIECE = 16 << 10
SPLIT_MAX_BYTES = 2_000
"""Bytes of a direction that go out one by one; a large message would take minutes."""


@dataclass(frozen=True)
class Fault:
    """What happens to one direction of one connection."""

    delay: float = 0
    hold: float = 0
    slow: int = 0
    split: bool = False
    cut: int | None = None
    half_close: int | None = None
    stall: int | None = None
    reset: bool = False

    def name(self) -> str:
        return next((name for name in ("cut", "half_close", "stall") if getattr(self, name) is not None),
                    next((name for name in ("delay", "hold", "slow", "split", "reset") if getattr(self, name)), "none"))


def drawn(luck: random.Random, calm: float) -> Fault:
    """A fault from the seed: positions where an envelope, a content or its end is on its way."""
    if luck.random() < calm:
        return Fault()
    at = luck.choice([0, 1, luck.randrange(60), luck.randrange(400), luck.randrange(8_000), luck.randrange(200_000)])
    return luck.choice([Fault(delay=luck.uniform(0.001, 0.05)), Fault(hold=luck.uniform(0.05, 1)),
                        Fault(slow=luck.randrange(2_000, 200_000)), Fault(split=True), Fault(cut=at), Fault(cut=at),
                        Fault(half_close=at), Fault(stall=at), Fault(reset=True)])


def reset(writer: asyncio.StreamWriter) -> None:
    """RST to the peer."""
    peer = writer.get_extra_info("socket")
    try:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    writer.transport.abort()


class Proxy:
    """In a thread with a loop of its own; `draw` gives the faults of the next connection, there and back."""

    def __init__(self, target: int, draw: Callable[[], tuple[Fault, Fault]] = lambda: (Fault(), Fault())) -> None:
        self.target = target
        self.port = free_port()
        self.draw = draw
        self.met: Counter[str] = Counter()
        """Connections by the faults they were given."""
        self.stall_seconds = 5.0
        """How long a stalled connection stays; then both sides are reset."""
        self.loop = asyncio.new_event_loop()

    @classmethod
    def seeded(cls, target: int, seed: int, calm: float = 0.5) -> "Proxy":
        luck = random.Random(seed)
        return cls(target, lambda: (drawn(luck, calm), drawn(luck, calm)))

    def start(self) -> "Proxy":
        ready = threading.Event()

        async def listen() -> None:
            await asyncio.start_server(self.joined, "127.0.0.1", self.port, backlog=1_000)
            ready.set()

        def run() -> None:
            asyncio.set_event_loop(self.loop)
            self.loop.create_task(listen())
            self.loop.run_forever()

        threading.Thread(target=run, daemon=True).start()
        ready.wait(10)
        return self

    async def joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = self.draw()
        self.met[there.name()] += 1
        self.met[back.name()] += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return reset(writer)
        tasks = [asyncio.create_task(self.carry(reader, far_writer, there)),
                 asyncio.create_task(self.carry(far_reader, writer, back))]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        broken = any(task.exception() for task in done)
        for task in tasks:
            task.cancel()
        for end in (writer, far_writer):
            if broken:
                reset(end)
            else:
                end.close()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
        """One direction, to its end; raises ConnectionError where both sides are to be reset."""
        carried = 0
        if fault.hold:
            await asyncio.sleep(fault.hold)
        while piece := await reader.read(PIECE):
            limit = next((at for at in (fault.cut, fault.half_close, fault.stall) if at is not None), None)
            stops = limit is not None and carried + len(piece) >= limit
            if stops:
                piece = piece[:limit - carried]
            if fault.delay:
                await asyncio.sleep(fault.delay)
            if fault.split and carried < SPLIT_MAX_BYTES:
                for byte in piece[:SPLIT_MAX_BYTES]:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
                writer.write(piece[SPLIT_MAX_BYTES:])
            else:
                writer.write(piece)
            await writer.drain()
            carried += len(piece)
            if fault.slow:
                await asyncio.sleep(len(piece) / fault.slow)
            if not stops:
                continue
            if fault.half_close is not None:
                writer.write_eof()
                while await reader.read(PIECE):
                    pass
                return
            if fault.stall is not None:
                await asyncio.sleep(self.stall_seconds)
            raise ConnectionResetError("cut")
        if fault.reset:
            raise ConnectionResetError("reset")
        writer.write_eof()


async def main() -> None:
    parser = argparse.ArgumentParser(description="the worst network")
    parser.add_argument("port", type=int)
    parser.add_argument("target", type=int)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--calm", type=float, default=0.5)
    arguments = parser.parse_args()
    proxy = Proxy.seeded(arguments.target, arguments.seed, arguments.calm)
    server = await asyncio.start_server(proxy.joined, "127.0.0.1", arguments.port, backlog=1_000)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
