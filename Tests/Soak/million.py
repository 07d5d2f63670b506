"""A million messages through one server without a restart; at the end it holds what it held before.

    source ──▶ gateway (20 domains, and some that come and go) ──▶ sink       beside it an administrator who never rests

    million.py [--messages 1000000] [--io epoll|uring] [--break descriptor|memory|file|message] [--keep]

Of 100,000 messages 1,000 bounce (their DSNs come back through the gateway), 200 are put off once, 300 have 300 KiB to
1 MiB; always one domain is held and released. Compared, after a warm-up of 50,000 messages and at the end, both times
with an empty queue and no session: memory, descriptors, threads, files, disk use, counters; and of each message, by the
ledgers of both sides, that it arrived once and unchanged. `--break` spoils one of these, and the run must fail.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from load import (Ledger, Level, LoadSink, Source, balance, kinds_of_descriptors, level, memory, metrics,
                  percentile, tree, wait_until)
from harness import Skip, commit, exit_cleanly_on_signals, keep_folders, scratch_folder
from posternctl import Postern

DOMAINS = 20
WARM_UP = 50_000
MIX = {"bounces": 1_000, "defers": 200, "large": 300, "sender": "d0.test"}
"""Of 100,000 messages; DSNs go to a domain of the gateway's own, so the sink sees them."""
CONNECTIONS = 100
PASSING_MESSAGES = 500
"""Through a gateway that is made for them and deleted behind them."""
PASSING_MAX = 1_000
"""Such gateways; the ledgers have room for the mail of so many."""

MEMORY_SHARE, MEMORY_BYTES = 0.05, 4 << 20
"""What memory may be above its level after the warm-up: the larger of the two."""
DATABASE_MAX_BYTES = 8 << 20
"""postern.db and its journal, whatever has come and gone."""
DISK_BYTES = 256 << 10
"""What the mail directories may be above their level."""
LOG_BYTES_PER_MESSAGE = 1_024
SILENCE_SECONDS = 60
SETTLE_SECONDS = 60
SAMPLE_SECONDS = 10


class Administrator(threading.Thread):
    """Holds and releases, makes gateways and deletes them, and asks for everything, until told to stop."""

    def __init__(self, gateway: Postern, folder: Path, sink: LoadSink, sent: Ledger, first: int) -> None:
        super().__init__(daemon=True)
        self.gateway, self.folder, self.sink, self.sent, self.first = gateway, folder, sink, sent, first
        self.ending = threading.Event()
        self.requests = self.holds = self.passed = 0
        self.problems: list[str] = []

    def run(self) -> None:
        luck = random.Random(1)
        while not self.ending.is_set():
            try:
                self.round(f"d{luck.randrange(DOMAINS)}.test")
            except Exception as failure:  # whatever it is, it is the verdict
                self.problems.append(f"administrator: {failure}")
                return

    def ask(self, *words: str) -> None:
        self.gateway.command(*words)
        self.requests += 1

    def round(self, domain: str) -> None:
        self.ask("queue", "hold", domain)
        self.holds += 1
        try:
            if self.passed < PASSING_MAX:
                self.pass_through(f"passing{self.passed}.test")
            for words in (("status",), ("gateway", "list"), ("gateway", "show", domain), ("queue", "list", domain),
                          ("gateway", "usage", domain), ("gateway", "set", domain, "forward.concurrency=20"),
                          ("settings", "show"), ("queue", "flush", domain)):
                self.ask(*words)
            self.ending.wait(2)
        finally:
            self.ask("queue", "release", domain)
        self.ending.wait(1)

    def pass_through(self, domain: str) -> None:
        """A gateway's whole life."""
        self.gateway.create(domain, f"127.0.0.1:{self.sink.port}", forward__tls="none")
        source = Source(self.folder, self.gateway.port, self.sent, "passing", domain=domain, domains=1, connections=5,
                        first=self.first + self.passed * PASSING_MESSAGES, count=PASSING_MESSAGES)
        source.process.wait(SILENCE_SECONDS)
        source.kill()
        wait_until(f"mail of {domain} to leave",
                   lambda: self.gateway.command("gateway", "usage", domain)[0]["messages"] == 0, SILENCE_SECONDS, 0.2)
        self.ask("gateway", "delete", domain)
        self.passed += 1

    def successor(self) -> "Administrator":
        """Goes on with the next number."""
        heir = Administrator(self.gateway, self.folder, self.sink, self.sent, self.first)
        heir.requests, heir.holds, heir.passed = self.requests, self.holds, self.passed
        return heir

    def stop(self) -> None:
        self.ending.set()
        self.join(SILENCE_SECONDS * 2)


class Soak:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = scratch_folder("soak")
        self.problems: list[str] = []
        self.total = WARM_UP + arguments.messages
        room = self.total + PASSING_MAX * PASSING_MESSAGES
        self.sent = Ledger(self.folder / "sent", room)
        self.taken = Ledger(self.folder / "taken", room)
        self.gateway = Postern(io=arguments.io)
        self.began = time.monotonic()

    @property
    def pid(self) -> int:
        assert self.gateway.service is not None
        return self.gateway.service.pid

    def load(self, administrator: Administrator, first: int, count: int) -> None:
        administrator.start()
        try:
            self.send(first, count)
        finally:
            administrator.stop()
        self.problems += administrator.problems

    def send(self, first: int, count: int) -> None:
        """Hands in `count` messages, waits until the queue is empty, and prints a sample every ten seconds."""
        source = Source(self.folder, self.gateway.port, self.sent, f"source{first}", first=first, count=count,
                        connections=CONNECTIONS, domains=DOMAINS, **MIX)
        progress, moved, sampled = 0.0, time.monotonic(), 0.0
        while source.running():
            now = time.monotonic()
            if now - sampled >= SAMPLE_SECONDS:
                sampled = now
                got = self.sample()
                if got > progress:
                    progress, moved = got, now
                elif now - moved > SILENCE_SECONDS:
                    raise RuntimeError(f"nothing was accepted for {SILENCE_SECONDS} s\n{source.tail()}")
            time.sleep(0.2)
        if source.process.returncode != 0:
            raise RuntimeError(f"the source ended with {source.process.returncode}: {source.tail()}")
        print(f"  {source.tail(1)}", flush=True)

    def sample(self) -> float:
        now, files = metrics(self.gateway), tree(self.gateway.folder / "data/stores")
        held = level(self.pid)
        print(f"{time.monotonic() - self.began:7.0f} {now['postern_accepted_total']:9.0f} "
              f"{now['postern_delivered_total']:9.0f} {now['postern_bounced_total']:7.0f} {now['postern_queued']:7.0f} "
              f"{held.pss / 2**20:7.1f} {held.anonymous / 2**20:7.1f} {held.descriptors:6} {held.threads:4} "
              f"{files[0]:7} {files[1] / 2**20:7.1f} {self.gateway.log.stat().st_size / 2**20:7.1f} {held.cpu:7.1f}",
              flush=True)
        return now["postern_accepted_total"]

    def settled(self, what: str) -> tuple[Level, tuple[int, int], dict[str, float]]:
        """The server with an empty queue and without sessions, or the problem that it does not get there."""

        def empty() -> bool:
            now = metrics(self.gateway)
            return not any(now[f"postern_{name}"] for name in ("queued", "sessions", "forward_sessions"))

        try:
            wait_until("an empty queue and no session", empty, SETTLE_SECONDS, every=0.5)
        except TimeoutError as timeout:
            now = metrics(self.gateway)
            self.problems.append(f"{what}: {timeout}: queued {now['postern_queued']:.0f}, sessions "
                                 f"{now['postern_sessions']:.0f} in, {now['postern_forward_sessions']:.0f} out")
        time.sleep(2)  # the last removals are committed, and what is metered has ticked
        self.sample()
        return level(self.pid), tree(self.gateway.folder / "data/stores"), metrics(self.gateway)

    def heads_put_aside(self) -> tuple[int, int]:
        """A deleted gateway's mail directory is renamed aside with its head file, by design (docs/configure.md): how many,
        and the bytes that they take on disk."""
        sizes = [path.stat().st_blocks * 512
                 for path in (self.gateway.folder / "data/stores").glob("*.deleted-*/store.head")]
        return len(sizes), sum(sizes)

    def check(self, good: bool, text: str) -> None:
        print(f"{'ok    ' if good else 'FAILED'} {text}")
        if not good:
            self.problems.append(text)

    def execute(self) -> list[str]:
        broken = self.arguments.broken
        sink = LoadSink(self.folder, self.taken)
        with self.gateway as gateway:
            gateway.start()
            print(f"soak: commit {commit()}, {gateway.description()}, {self.arguments.messages} messages")
            gateway.create_many([f"d{number}.test" for number in range(DOMAINS)], f"127.0.0.1:{sink.port}",
                                forward__tls="none", retry__schedule="[1s]")
            print("seconds  accepted delivered bounced  queued     PSS private descr. thr.   files    disk     log"
                  "     CPU", flush=True)
            fresh = self.settled("at the start")
            administrator = Administrator(gateway, self.folder, sink, self.sent, self.total)
            self.load(administrator, 0, WARM_UP)
            before = fresh if broken == "memory" else self.settled("after the warm-up")
            self.put_aside_before = self.heads_put_aside()
            began = time.monotonic()
            administrator = administrator.successor()
            self.load(administrator, WARM_UP, self.arguments.messages)
            accepted_seconds = time.monotonic() - began
            if broken == "descriptor":
                held = socket.create_connection(("127.0.0.1", gateway.port))
            if broken == "file":
                (gateway.folder / "data/stores/d0.test/left.part").write_bytes(b"x" * (2 << 20))
            after = self.settled("at the end")
            self.put_aside = self.heads_put_aside()
            seconds = time.monotonic() - began
            if broken == "descriptor":
                held.close()
            used = self.total + administrator.passed * PASSING_MESSAGES
            became = balance(self.sent.states(0, used), self.taken.states(0, used))
            if broken == "message":
                became["lost"] += 1
            figures = sink.figures()
            self.judge(before, after, became, figures, used)
            held_now = kinds_of_descriptors(self.pid)
        times = self.sent.values(WARM_UP, self.arguments.messages)
        print(f"{self.arguments.messages} accepted in {accepted_seconds:.0f} s "
              f"({self.arguments.messages / accepted_seconds:.0f}/s), all gone after {seconds:.0f} s; 250 after p50 "
              f"{percentile(times, .5) / 1e3:.1f} ms, p99 {percentile(times, .99) / 1e3:.1f} ms, max "
              f"{max(times) / 1e3:.0f} ms; administrator: {administrator.requests} requests, {administrator.holds} "
              f"holds, {administrator.passed} gateways made and deleted")
        if self.problems:
            print(f"descriptors: {dict(held_now)}")
        return self.problems

    def judge(self, before: tuple[Level, tuple[int, int], dict[str, float]],
              after: tuple[Level, tuple[int, int], dict[str, float]], became: Counter[str],
              figures: dict[str, int], used: int) -> None:
        """The verdict, line by line."""
        (then, then_files, _), (now, now_files, counted) = before, after
        print(f"\n{dict(became)}, DSNs at the sink {figures['nulls']}, unknown there {figures['unknown']}")
        for name in ("lost", "changed", "duplicates", "refused", "unknown", "nothing", "arrived though refused"):
            self.check(became[name] == 0, f"messages {name}: {became[name]}")
        self.check(figures["unknown"] == 0, f"messages at the sink that nobody sent: {figures['unknown']}")
        accepted, delivered, bounced = (int(counted[f"postern_{name}_total"])
                                        for name in ("accepted", "delivered", "bounced"))
        self.check(accepted == used + figures["nulls"],
                   f"accepted_total {accepted} = promised {used} + DSNs {figures['nulls']}")
        self.check(delivered == became["arrived"] + figures["nulls"],
                   f"delivered_total {delivered} = arrived {became['arrived']} + DSNs {figures['nulls']}")
        self.check(bounced == became["bounced"] == figures["nulls"],
                   f"bounced_total {bounced} = refused by the sink {became['bounced']} = DSNs {figures['nulls']}")
        self.check(accepted == delivered + bounced, "accepted = delivered + bounced")
        for name in ("queued", "held", "damaged_total", "alarms_total", "possible_duplicates_total",
                     "message_memory_bytes"):
            self.check(counted[f"postern_{name}"] == 0, f"{name} {counted[f'postern_{name}']:.0f}")
        for name, was, is_now in (("PSS", then.pss, now.pss), ("private memory", then.anonymous, now.anonymous)):
            most = was + max(was * MEMORY_SHARE, MEMORY_BYTES)
            self.check(is_now <= most, f"{name} {was / 2**20:.1f} ▶ {is_now / 2**20:.1f} MiB, at most "
                                       f"{most / 2**20:.1f}")
        self.check(now.descriptors == then.descriptors, f"descriptors {then.descriptors} ▶ {now.descriptors}")
        self.check(now.threads == then.threads, f"threads {then.threads} ▶ {now.threads}")
        was_aside, is_aside = self.put_aside_before, self.put_aside
        self.check(now_files[0] - is_aside[0] == then_files[0] - was_aside[0],
                   f"files {then_files[0]} ▶ {now_files[0]}, of them heads of deleted gateways {was_aside[0]} ▶ "
                   f"{is_aside[0]}")
        was, is_now = then_files[1] - was_aside[1], now_files[1] - is_aside[1]
        self.check(is_now <= was + DISK_BYTES,
                   f"mail directories {was / 2**20:.2f} ▶ {is_now / 2**20:.2f} MiB, without those heads")
        database = sum(path.stat().st_size for path in (self.gateway.folder / "data").glob("postern.db*"))
        self.check(database <= DATABASE_MAX_BYTES, f"database {database / 2**20:.1f} MiB, at most "
                                                   f"{DATABASE_MAX_BYTES / 2**20:.0f}")
        log = self.gateway.log.stat().st_size
        self.check(log <= LOG_BYTES_PER_MESSAGE * accepted, f"log {log / max(accepted, 1):.0f} bytes a message, at "
                                                            f"most {LOG_BYTES_PER_MESSAGE}")
        resident = memory(self.pid)
        print(f"       resident {resident / 2**20:.1f} MiB, CPU {now.cpu / max(accepted, 1) * 1e6:.0f} µs a message")


def main() -> int:
    parser = argparse.ArgumentParser(description="a million messages, and everything back to its level")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    parser.add_argument("--break", dest="broken", choices=["descriptor", "memory", "file", "message"])
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    started = time.monotonic()
    try:
        problems = Soak(arguments).execute()
    except Skip as reason:
        print(reason)
        return 1
    for problem in problems:
        print(f"FAILED {problem}")
    if arguments.keep:
        keep_folders()
    print(f"{'FAILED' if problems else 'passed'} in {time.monotonic() - started:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
