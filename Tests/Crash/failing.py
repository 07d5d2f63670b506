"""Arms `failing.c`: which file call of a running gateway fails, which time, and how."""

from __future__ import annotations

import errno
import mmap
import struct
from collections import Counter
from pathlib import Path

from harness import CACHE, Skip, run
from posternctl import Gateway

KINDS = ("none", "create", "open", "write", "read", "sync-file", "sync-disk", "close", "rename", "unlink",
         "make-folder", "list", "send")
WRITING = ("create", "write", "sync-file", "sync-disk", "close", "rename", "unlink")
"""Kinds that storing and settling are made of."""

CLASSES = {"spool": 1, "database": 2}
SHORT = 0
EVER = 0xFFFF_FFFF
SOURCE = Path(__file__).with_name("failing.c")
LAYOUT = struct.Struct("=IIIIiII")


def library() -> Path:
    """The shim, compiled when its source is newer."""
    made = CACHE / "failing.so"
    if not made.exists() or made.stat().st_mtime < SOURCE.stat().st_mtime:
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            run("cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", made, SOURCE, "-ldl")
        except FileNotFoundError:
            raise Skip("cc is missing: apt-get install gcc") from None
    return made


class Failing:
    """The switch of one gateway. Made before its start; stays through its restarts."""

    def __init__(self, gateway: Gateway) -> None:
        control = gateway.folder / "failing.control"
        control.write_bytes(bytes(mmap.PAGESIZE))
        with control.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.totals: Counter[str] = Counter()
        """Failed calls by kind and error."""
        self.label = ""
        """What was armed last."""
        gateway.environment |= {"LD_PRELOAD": str(library()), "FAILING_CONTROL": str(control),
                                "FAILING_FOLDER": str(gateway.data.resolve())}

    def arm(self, kind: str, fault: int, start: int = 1, count: int = 1, whose: str = "spool") -> None:
        """Fails `count` calls of this kind from the `start`-th on; `SHORT` writes half of what should be written."""
        self.disarm()
        self.label = f"{kind} {errno.errorcode[fault] if fault else 'short'}"
        until = min(start + count, EVER)
        # The kind last: it is what the shim looks at first.
        self.memory[4:LAYOUT.size] = LAYOUT.pack(0, CLASSES[whose], start, until, fault, 0, 0)[4:]
        self.memory[:4] = struct.pack("=I", KINDS.index(kind))

    def seen(self) -> tuple[int, int]:
        """Calls of the armed kind since it was armed, and how many of them failed."""
        fields = LAYOUT.unpack(self.memory[:LAYOUT.size])
        return fields[5], fields[6]

    def disarm(self) -> tuple[int, int]:
        self.memory[:4] = bytes(4)
        calls, failed = self.seen()
        if failed:
            self.totals[self.label] += failed
        self.memory[:LAYOUT.size] = bytes(LAYOUT.size)
        return calls, failed

    def hold(self) -> None:
        """No further call fails; what was counted stays for `disarm`."""
        self.memory[:4] = bytes(4)

    def report(self) -> str:
        return ", ".join(f"{label}: {count}" for label, count in sorted(self.totals.items())) or "none"
