"""postern-bench against itself: what it is for is to see a loss and a wrong byte, so both are made for it.

    postern-bench relay ──▶ a pipe that may change or swallow something ──▶ its own primary

Promise: status 0 when everything arrives as it was sent, by every way of sending; status 1, and the right figure, when one
message of many is lost, changed in one bit, doubled in content, or cut short.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from harness import ROOT, exit_cleanly_on_signals, free_port

BENCH = Path(os.environ.get("POSTERN_BENCH") or ROOT / ".build/release/postern-bench")
MARK = b"Subject: message 000000000100"
"""In the header section of message 100."""


class Pipe:
    """Hands bytes on between a client and `port`; `change` sees each piece that the client sent."""

    def __init__(self, port: int, change: Callable[[bytes], bytes]) -> None:
        self.port, self.change = port, change
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                return
            for source, sink, change in ((client, server, self.change), (server, client, lambda piece: piece)):
                threading.Thread(target=self.pump, args=(source, sink, change), daemon=True).start()

    @staticmethod
    def pump(source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
        try:
            while piece := source.recv(1 << 18):
                sink.sendall(change(piece))
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def relay(*words: str, change: Callable[[bytes], bytes] | None = None) -> tuple[int, dict]:
    """Sends 300 small messages to its own primary, through a pipe if they are to be changed."""
    port = free_port()
    target = f"127.0.0.1:{port}" if change is None else Pipe(port, change).target
    result = subprocess.run(
        [str(BENCH), "relay", "--target", target, "--sink", f"127.0.0.1:{port}", "--messages", "300", "--connections", "3",
         "--size", "1k", "--domains", "d%d.test:7", "--timeout", "3", "--json", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return result.returncode, json.loads(result.stdout) if result.stdout else {}


def at_mark(change: Callable[[bytearray, int], None]) -> Callable[[bytes], bytes]:
    """Changes message 100 some way into its body, once it is there in one piece."""

    def changed(piece: bytes) -> bytes:
        at = piece.find(MARK)
        if at < 0 or len(piece) < at + 600:
            return piece
        copy = bytearray(piece)
        change(copy, at + 500)
        return bytes(copy)

    return changed


def flip(piece: bytearray, at: int) -> None:
    piece[at] ^= 1


def cut(piece: bytearray, at: int) -> None:
    del piece[at]


def double(piece: bytearray, at: int) -> None:
    piece[at:at] = piece[at:at + 1]


def main() -> int:
    exit_cleanly_on_signals()
    if not BENCH.exists():
        print(f"{BENCH} is not built: `make build`")
        return 1
    cases: list[tuple[str, int, str, int, tuple[int, dict]]] = []
    for words in ([], ["--pipelining"], ["--bdat"], ["--pipelining", "--bdat", "--rcpts", "5"], ["--size", "mix"],
                  ["--tls", "--offer-tls", "--pipelining"], ["--one-per-session"], ["--rate", "1000", "--threads", "2"],
                  ["--delay", "5ms"], ["--defer", "0.1", "--refuse", "0.1"], ["--warmup", "50"]):
        cases.append((" ".join(words) or "plain", 0, "lost", 0, relay(*words)))
    cases.append(("one of 300 lost", 1, "lost", 1, relay("--drop-every", "300")))
    for name, change in (("a bit flipped", flip), ("a byte missing", cut), ("a byte twice", double)):
        cases.append((name, 1, "wrong", 1, relay(change=at_mark(change))))
    failed = 0
    for name, status, key, value, (got, figures) in cases:
        right = got == status and figures.get(key) == value and (status == 1 or figures["wrong"] == figures["duplicates"] == 0)
        failed += not right
        print(f"{'ok    ' if right else 'FAILED'} {name}: status {got}, lost {figures.get('lost')}, wrong {figures.get('wrong')}, "
              f"{figures.get('messages')} messages{'' if right else f', {figures}'}")
    print(f"{len(cases) - failed} of {len(cases)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
