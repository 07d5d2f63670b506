"""Where a message's time goes in a running server: its own instructions and allocations, the kernel's calls, the waits.

    profile.py [--parts accept,relay,journal] [--messages 2000] [--connections 50] [--rows 25] [--json FILE]

    accept   ten KiB, pipelined, one reactor; the mail stays in its mail directory
    relay    the same mail goes on to a primary, over PIPELINING and CHUNKING
    journal  as `relay`, through the journal

Each part is run twice: under callgrind, which counts instructions and calls, whatever else the machine does (that of user space
alone, and ten to fifty times slower); and as it is, watched from outside: the threads' CPU, and in a second half strace with the
number of system calls and the time that threads spent in them. The rates mean nothing.

Needs valgrind and strace, and root for strace where ptrace is restricted. The server is `.build/release/postern` (POSTERN_BIN).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "Tests/Conformance"))
import posternctl  # noqa: E402
from callgrind import Profile  # noqa: E402
from harness import ROOT, commit, end_services, exit_cleanly_on_signals, free_port, run, scratch_folder, wait_until  # noqa: E402

BENCH = Path(os.environ.get("POSTERN_BENCH") or ROOT / ".build/release/postern-bench")
DOMAIN = "d0.test"
WARM_UP = 500
"""Messages before the counting: pools, tables and sessions are as large then as they get."""
SETTLE_SECONDS = 1.5
"""The last settles, and the log thread."""

ALLOCATORS = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign", "_mid_memalign",
              "_mid_memalign.constprop.0"}
RUNTIME = {"swift_slowAlloc", "swift_slowAllocTyped", "swift_allocObject", "swift_bufferAllocate", "swift_initStackObject",
           "operator new(unsigned long)"}
"""What stands between an allocator and who wants the memory."""
STRINGS = re.compile(r"_ContiguousArrayBuffer|_allocateStringStorage|_copyCollectionToContiguousArray|_StringGuts|String\.|"
                     r"_SmallString|DefaultStringInterpolation|Array\.|_ArrayBuffer|Sequence\.|Collection\.|BinaryInteger|"
                     r"ContiguousArray|_BinaryIntegerToASCII|Substring|UTF8View|CustomStringConvertible|Character|String\b")
"""The standard library's; charged to their callers when it is asked who allocates."""

AREAS: list[tuple[str, re.Pattern[str]]] = [(name, re.compile(pattern)) for name, pattern in [
    ("exclusivity checks", r"swift_beginAccess|swift_endAccess|AccessSet|SwiftTLSContext"),
    ("reference counts", r"^_?swift_(?:bridgeObject|unknownObject|unowned\w*|weak\w*)?(?:Retain|Release|retain|release)|RefCounts|"
                         r"swift_unowned|swift_weak|swift_isUniquely|_swift_release_dealloc|swift_dealloc|swift_deinit"),
    ("malloc and free", r"^(?:malloc|calloc|realloc|free|_int_\w+|malloc_consolidate|unlink_chunk|sysmalloc|_mid_memalign|tcache\w*|"
                        r"posix_memalign|cfree|systrim)|swift_slow|swift_allocObject"),
    ("copies of values", r"^(?:initializeWithCopy|destroy for|outlined|initializeWithTake|assignWith|swift_array)|ValueWitness|"
                         r"metadataimpl"),
    ("memory moved or zeroed", r"mem(?:cpy|move|set|cmp|chr)"),
    ("content: scan and checksum", r"ContentScanner|HeaderScanner|crc32c"),
    ("log", r"EventLog|LogWriter|MailDate"),
    ("strings and arrays", STRINGS.pattern),
    ("SMTP machines", r"SMTP|AddressParser|MailAddress|TraceHeader|ByteOutput|Reply|MailParameters|XText|DotStuffer|EnhancedStatus"),
    ("queue and hand-over", r"Queues|GatewayQueue|ParcelIndex|HotList|ForwardSession|ParcelLoader|PrimaryHealth"),
    ("receiving", r"ReceiveSession|Admission|ClientNetworks|Core\.admit|MessageContent|PiecePool|Route|DomainName|DirectorySnapshot"),
    ("spool and journal", r"Spool|CommitStream|Batch|MailFile|Journal|IncomingParcel|IncomingMessage|Removal|QueueID|Store"),
    ("loop, sockets, files", r"Core|Reactor|Backend|TimerWheel|Connection|Mailbox|Doorbell|FileLane|PosixFiles|FileTask|Socket|"
                             r"SessionTable|CallbackClock|Operation|epoll|sendmsg|recv|writev|openat|pthread|syscall|clock_gettime"),
]]


class Server:
    """One server, its load, and how much of that has been sent."""

    def __init__(self, part: str, arguments: argparse.Namespace, prefix: list[str]) -> None:
        self.part, self.arguments = part, arguments
        environment = {"POSTERN_JOURNAL_SIZE": str(1 << 30)} if part == "journal" else {}
        self.gateway = posternctl.Postern(scratch_folder("profile"), io=arguments.io, reactors=1, environment=environment)
        self.gateway.prefix = prefix
        self.gateway.start()
        self.primary = free_port()
        self.gateway.create(DOMAIN, f"127.0.0.1:{self.primary}", forward__tls="none", forward__concurrency="20",
                            hold="true" if part == "accept" else "false")
        assert self.gateway.service is not None
        self.pid = self.gateway.service.pid

    def load(self, messages: int) -> None:
        mode = "accept" if self.part == "accept" else "relay"
        command = [str(BENCH), mode, "--target", f"127.0.0.1:{self.gateway.port}", "--messages", str(messages), "--connections",
                   str(self.arguments.connections), "--size", str(self.arguments.size), "--domains", DOMAIN, "--pipelining",
                   "--timeout", "300", "--json"]
        if mode == "relay":
            command += ["--sink", f"127.0.0.1:{self.primary}"]
        run(*command, timeout=1200)
        time.sleep(SETTLE_SECONDS)


# What it does itself

def counted(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Under callgrind, from the warm-up's end to the last settle."""
    folder = scratch_folder("callgrind")
    # The debug information of Swift is newer than valgrind's reader; names are in the symbol table too.
    stripped = folder / "postern"
    run("strip", "--strip-debug", "-o", stripped, posternctl.BINARY)
    original, posternctl.BINARY = posternctl.BINARY, stripped
    dump = folder / "callgrind.out"
    try:
        server = Server(part, arguments, ["valgrind", "--tool=callgrind", f"--callgrind-out-file={dump}"])
        server.load(WARM_UP)
        run("callgrind_control", "--zero", str(server.pid))
        server.load(arguments.messages)
        run("callgrind_control", "--dump", str(server.pid))
        first = dump.with_name(dump.name + ".1")
        wait_until("callgrind's dump", lambda: first.exists() and "totals:" in first.read_text(errors="replace")[-500:], 60)
    finally:
        end_services()
        posternctl.BINARY = original
    return figures(Profile(first), arguments.messages, arguments.rows)


def figures(profile: Profile, messages: int, rows: int) -> dict[str, Any]:
    """All of it by message."""

    def per(counts: Counter[str], most: int) -> list[tuple[str, float]]:
        return [(name, round(count / messages, 2)) for name, count in counts.most_common(most)]

    areas: Counter[str] = Counter()
    for name, cost in profile.own.items():
        areas[next((area for area, pattern in AREAS if pattern.search(name)), "everything else")] += cost
    library = {name for name in profile.own if STRINGS.search(name)}
    retains = {name for name in profile.own if re.fullmatch(r"swift_(bridgeObject)?[rR]etain", name)}
    checks = {"swift_beginAccess"}
    return {
        "instructions": round(profile.total / messages),
        "areas": per(areas, 99),
        "functions": per(profile.own, rows),
        "allocations": round(profile.called(ALLOCATORS) / messages, 2),
        "allocators": per(profile.callers(ALLOCATORS, RUNTIME | library), rows),
        "retains": round(profile.called(retains) / messages, 1),
        "retainers": per(profile.callers(retains, library), rows),
        "checks": round(profile.called(checks) / messages, 1),
        "checkers": per(profile.callers(checks), rows),
    }


# What the kernel does for it

def thread_seconds(pid: int) -> dict[str, tuple[float, float]]:
    """User and system seconds of each thread by its name. The kernel counts their sum exactly and divides it by ticks."""
    found: dict[str, tuple[float, float]] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        head, _, rest = (task / "stat").read_text().rpartition(")")
        user, system = (int(field) for field in rest.split()[11:13])
        seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
        share = user / (user + system) if user + system else 0
        name = re.sub(r"\d+$", "", head.partition("(")[2])
        before = found.get(name, (0.0, 0.0))
        found[name] = (before[0] + seconds * share, before[1] + seconds * (1 - share))
    return found


def watched(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    messages = arguments.messages * arguments.times
    summary = scratch_folder("strace") / "summary"
    try:
        server = Server(part, arguments, [])
        server.load(WARM_UP)
        before = thread_seconds(server.pid)
        server.load(messages)
        after = thread_seconds(server.pid)
        tracer = subprocess.Popen(["strace", "-f", "-c", "-w", "-p", str(server.pid), "-o", str(summary)],
                                  stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        if "attached" not in tracer.stderr.readline():
            tracer.wait()
            raise RuntimeError("strace can't attach to the server: it needs root, or kernel.yama.ptrace_scope=0")
        server.load(arguments.messages)
        tracer.terminate()
        tracer.communicate()
    finally:
        end_services()
    threads = [(name, *(round((after[name][at] - before.get(name, (0.0, 0.0))[at]) / messages * 1e6, 1) for at in (0, 1)))
               for name in sorted(after)]
    calls = []
    for line in summary.read_text().splitlines():
        words = line.split()
        if len(words) >= 5 and re.fullmatch(r"[\d.]+", words[0]) and words[-1] != "total":
            calls.append((words[-1], round(int(words[3]) / arguments.messages, 2), round(float(words[1]) / arguments.messages * 1e6, 1)))
    return {"threads": [thread for thread in threads if thread[1] + thread[2] > 0],
            "calls": sorted(calls, key=lambda call: -call[1])[:arguments.rows]}


# The report

def table(title: str, heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    lines = ["", f"### {title}", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return lines + ["| " + " | ".join([f"`{row[0]}`", *(f"{cell:g}" for cell in row[1:])]) + " |" for row in rows]


def report(part: str, found: dict[str, Any]) -> str:
    lines = [f"## {part}", "",
             f"{found['instructions']} instructions, {found['allocations']:g} allocations, {found['retains']:g} retains and "
             f"{found['checks']:g} exclusivity checks a message."]
    lines += table("Instructions by area", ("area", "instructions"), [(name, round(count)) for name, count in found["areas"]])
    lines += table("Instructions by function, without what it calls", ("function", "instructions"),
                   [(name[:110], round(count)) for name, count in found["functions"]])
    lines += table("Allocations by caller", ("caller", "allocations"), [(name[:110], count) for name, count in found["allocators"]])
    lines += table("Retains by caller", ("caller", "retains"), [(name[:110], count) for name, count in found["retainers"]])
    lines += table("Exclusivity checks by function", ("function", "checks"), [(name[:110], count) for name, count in found["checkers"]])
    if "threads" in found:
        lines += table("CPU by thread, µs", ("thread", "user", "system"), found["threads"])
        lines += table("System calls", ("call", "calls", "µs within, under strace"), found["calls"])
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="accept,relay,journal")
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--times", type=int, default=5, help="so many times the messages where only CPU is read")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--size", type=int, default=10_240)
    parser.add_argument("--io", default="epoll", choices=["epoll", "uring"], help="valgrind knows epoll")
    parser.add_argument("--rows", type=int, default=25)
    parser.add_argument("--only-callgrind", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    for tool in ["valgrind", "callgrind_control", *([] if arguments.only_callgrind else ["strace"])]:
        if shutil.which(tool) is None:
            print(f"{tool} is missing: `apt-get install valgrind strace`", file=sys.stderr)
            return 1
    for program in (posternctl.BINARY, BENCH):
        if not program.exists():
            print(f"{program} is not built: `make build`", file=sys.stderr)
            return 1
    print(f"commit {commit()}, {arguments.messages} messages of {arguments.size} bytes over {arguments.connections} connections, "
          f"io {arguments.io}, one reactor\n")
    everything = {}
    for part in arguments.parts.split(","):
        found = counted(part, arguments)
        if not arguments.only_callgrind:
            found |= watched(part, arguments)
        everything[part] = found
        print(report(part, found), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
