"""What soak and hostile network share: senders and a primary in C with ledgers, meters of a server from outside.

`load.c` is compiled at the first use, with the machine's `cc`.
"""

from __future__ import annotations

import mmap
import os
import resource
import struct
import sys
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from harness import CACHE, Service, Skip, free_port, run, wait_until  # noqa: E402
from posternctl import Postern  # noqa: E402

ENTRY = struct.Struct("II")
NOTHING, SENT, PROMISED, REFUSED = range(4)
CHANGED, PUT_OFF, REFUSED_FOR_GOOD, ARRIVALS = 0x100, 0x200, 0x400, 0xff


def program() -> Path:
    """The compiled `load.c`, newer than its source."""
    source, binary = Path(__file__).with_name("load.c"), CACHE / "load"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        CACHE.mkdir(exist_ok=True)
        try:
            run("cc", "-O2", "-Wall", "-Wextra", "-o", binary, source)
        except FileNotFoundError:
            raise Skip("no C compiler for Tests/Soak/load.c") from None
    return binary


def raise_descriptor_limit(wanted: int) -> int:
    """Room for this many descriptors here and in what is started from here; returns what there is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Ledger:
    """One entry per message, shared with a running source or sink."""

    def __init__(self, path: Path, messages: int) -> None:
        self.path = path
        self.messages = messages
        with path.open("w+b") as file:
            file.truncate(messages * ENTRY.size)
            self.map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def entries(self, first: int = 0, count: int | None = None) -> "memoryview[int]":
        """States and values in turn, a copy of this moment."""
        end = self.messages if count is None else min(self.messages, first + count)
        return memoryview(self.map[first * ENTRY.size:end * ENTRY.size]).cast("I")

    def states(self, first: int = 0, count: int | None = None) -> list[int]:
        return self.entries(first, count)[::2].tolist()

    def values(self, first: int = 0, count: int | None = None) -> list[int]:
        return self.entries(first, count)[1::2].tolist()


class Source(Service):
    """`load source`; `options` are those of load.c."""

    def __init__(self, folder: Path, port: int, ledger: Ledger, label: str = "source", **options: int | float | str
                 ) -> None:
        address = options.pop("address", "127.0.0.1")
        super().__init__(label, [str(program()), "source", str(address), str(port), str(ledger.path),
                                 *(f"{key}={value}" for key, value in options.items())], folder / f"{label}.log")


class LoadSink:
    """`load sink` on a port of its own."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.port = free_port()
        self.log = folder / "load-sink.log"
        self.service = Service("load sink", [str(program()), "sink", str(self.port), str(ledger.path)], self.log)
        self.service.wait_for_greeting(self.port)

    def figures(self) -> dict[str, int]:
        """Sessions, messages from `<>`, messages without a number; so far."""
        before = self.log.stat().st_size
        self.service.process.send_signal(10)  # SIGUSR1
        wait_until("the sink's figures", lambda: self.log.stat().st_size > before, 10, every=0.01)
        words = self.service.tail(1).split()
        return {name: int(value) for name, value in zip(words[::2], words[1::2])}


def balance(sent: list[int], taken: list[int]) -> Counter[str]:
    """What became of each message, by both ledgers."""
    became: Counter[str] = Counter()
    for ours, theirs in zip(sent, taken):
        arrivals = theirs & ARRIVALS
        state = ours & 0xff
        became[("nothing", "unknown", "promised", "refused")[state]] += 1
        became["changed"] += bool(theirs & CHANGED)
        became["arrived"] += arrivals > 0
        became["duplicates"] += max(arrivals - 1, 0)
        became["put off"] += bool(theirs & PUT_OFF)
        became["bounced"] += bool(theirs & REFUSED_FOR_GOOD)
        became["lost"] += state == PROMISED and arrivals == 0 and not theirs & REFUSED_FOR_GOOD
        became["arrived though refused"] += state == REFUSED and arrivals > 0
    return became


# Meters of a process, from outside

@dataclass(frozen=True)
class Level:
    """What the mail process holds at one moment."""

    pss: int
    anonymous: int
    """Private dirty memory: heap and stacks, without the program's pages."""
    descriptors: int
    threads: int
    cpu: float
    """Seconds since its start."""


def level(pid: int) -> Level:
    rollup: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        rollup[name.rstrip(":")] = int(value) * 1024
    return Level(rollup["Pss"], rollup["Private_Dirty"], descriptors(pid), len(os.listdir(f"/proc/{pid}/task")),
                 cpu_seconds(pid))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def kinds_of_descriptors(pid: int) -> Counter[str]:
    """For the reader of a failure: what the descriptors are."""
    kinds: Counter[str] = Counter()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            kinds[os.readlink(entry.path).partition(":[")[0]] += 1
        except OSError:
            continue
    return kinds


def memory(pid: int) -> int:
    """Resident bytes: cheap enough to be read ten times a second."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metrics(gateway: Postern) -> dict[str, float]:
    """/metrics, names with their labels as they stand there."""
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] not in "#")}


def tree(folder: Path) -> tuple[int, int]:
    """Files and the bytes they take on disk, below a folder."""
    count, taken = 0, 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                taken += os.lstat(os.path.join(path, name)).st_blocks * 512
                count += 1
            except FileNotFoundError:
                continue
    return count, taken


def percentile(values: list[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0


