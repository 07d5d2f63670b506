"""Hostile peers and a hostile network, beside known good senders who must not notice.

    bystanders ──▶ gateway ──▶ sink        all the time, at a fixed rate, with a ledger of both sides
    hostile clients, primaries, proxies    one case after the other

    hostile.py [--short] [--only NAME,…] [--io epoll|uring] [--seed S] [--rate 100] [--list] [--keep]

Of each case one line: what was done, what the server answered; the bystanders' time from envelope to 250; the most
memory of the mail process and its bound; the longest callback. Every case is judged by the same rules, from outside:

- no bystander is refused, put off or cut; their p99, their slowest and their rate stay within the bounds below;
- resident memory stays below what it was + connections × cost + `limits.messageMemory` (with content) + slack;
- no callback of 10 ms or more, by /metrics; a metric that is not there is a failure. A virtual machine can be stopped for
  that long with nothing of it in the guest's figures, so a case that failed by this rule alone is played once more: what
  the case does to the server comes back, what the machine does doesn't;
- afterwards: as many descriptors and sessions as before; the log grew by no more than its lines per command allow.

At the end: every bystander's message arrived once, unchanged; the server is idle when nobody asks; no alarm; and mail
that went through a network from a seed (cut, stalled, split, held back…) was lost nowhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Soak"))
from load import (PROMISED, REFUSED, Ledger, LoadSink, Source, balance, cpu_seconds, descriptors,  # noqa: E402
                  kinds_of_descriptors, memory, metrics, percentile, raise_descriptor_limit)
import cases  # noqa: E402
from cases import Failed, Field, Seen  # noqa: E402
from harness import (Skip, commit, exit_cleanly_on_signals, keep_folders, scratch_folder,  # noqa: E402
                     wait_until)
from strangers import Primary  # noqa: E402
from posternctl import Postern  # noqa: E402
from proxy import Fault, Proxy  # noqa: E402

DESCRIPTORS_WANTED = 48_000
BYSTANDERS = 80
"""They come from 127.80.0.0/16: eight networks, under the same limits as everybody."""
BYSTANDER_DOMAINS = 4
LEDGER_MESSAGES = 200_000
WARM_UP = 2_000
AT_REST = ("sessions", "forward_sessions", "queued")

P99_MAX_MS = 1_500
SLOWEST_MAX_MS = 10_000
"""Far above what is measured (p99 of 10 to 30 ms): a machine that is busy otherwise must not fail the run."""
RATE_SHARE_MIN = 0.8

MESSAGE_MEMORY = 64 << 20
"""`limits.messageMemory` of these runs."""
CONNECTION_BYTES = 12 << 10
"""Of one connection in plaintext: session, machine, a partial line, timers."""
PIPELINE_BYTES = 128 << 10
"""Of one connection whose peer sends ahead and does not read: what was read of it, and the replies that wait."""
TLS_BYTES = 80 << 10
"""Of one connection in TLS beside that: OpenSSL's state and buffers."""
SLACK_BYTES = 32 << 20
"""What does not depend on the peers: commits under way, caches of memory, the queue's index."""

LONGEST, SLOW = "postern_longest_callback_seconds", "postern_slow_callbacks_total"
"""Without the time that a reactor waited for a processor, which is other programs' doing."""
LOG_LINE_BYTES = 400
LOG_SLACK_BYTES = 256 << 10
IDLE_CPU_SHARE = 0.03


@dataclass
class Verdict:
    line: str
    problems: list[str]
    slow: int = 0
    """Callbacks of 10 ms or more, where that is the only problem; else 0."""


class Meter(threading.Thread):
    """Looks at the mail process twenty times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.most = 0
        self.start()

    def run(self) -> None:
        while True:
            self.look()
            time.sleep(0.05)

    def look(self) -> None:
        try:
            self.most = max(self.most, memory(self.pid))
        except OSError:
            pass  # it has ended: others will say so

    def begin(self) -> None:
        self.most = memory(self.pid)


class Campaign:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.limit = raise_descriptor_limit(DESCRIPTORS_WANTED)
        self.folder = scratch_folder("hostile")
        self.gateway = Postern(io=arguments.io, message_size=cases.MESSAGE_SIZE)
        configuration = json.loads(self.gateway.configuration.read_text())
        configuration["limits"]["messageMemory"] = MESSAGE_MEMORY
        configuration["trust"] = {"unlimited": []}  # loopback is the world here
        self.gateway.configuration.write_text(json.dumps(configuration, indent=2))
        self.sent = Ledger(self.folder / "sent", LEDGER_MESSAGES)
        self.taken = Ledger(self.folder / "taken", LEDGER_MESSAGES)
        self.next_message = 0
        self.problems: list[str] = []

    @property
    def pid(self) -> int:
        assert self.gateway.service is not None
        return self.gateway.service.pid

    async def metrics(self) -> dict[str, float]:
        now = await asyncio.to_thread(metrics, self.gateway)
        if missing := {LONGEST, SLOW} - now.keys():
            raise RuntimeError(f"/metrics does not tell {' and '.join(sorted(missing))}")
        return now

    async def command(self, *words: str) -> object:
        return await asyncio.to_thread(self.gateway.command, *words)

    # Bystanders

    def window(self) -> tuple[list[int], list[int], int]:
        """States and times of the bystanders' messages since the last call, but for those still under way."""
        states = self.sent.states(self.next_message)
        end = next((at for at, state in enumerate(states) if state & 0xff < PROMISED), len(states))
        values = self.sent.values(self.next_message, end)
        first = self.next_message
        self.next_message += end
        return states[:end], values, first

    # One case

    async def settle(self, connections: int) -> tuple[dict[str, float], int]:
        """Waits until only bystanders are left, at most ten seconds."""
        deadline = time.monotonic() + 10
        while True:
            now, held = await self.metrics(), descriptors(self.pid)
            if now["postern_sessions"] <= connections or time.monotonic() > deadline:
                return now, held
            await asyncio.sleep(0.2)

    async def run_case(self, case: Callable[[Field], Awaitable[Seen]], field: Field, meter: Meter,
                       base: int) -> Verdict:
        name = case.__name__.replace("_", " ")
        problems: list[str] = []
        is_judged = True
        before, descriptors_before = await self.settle(self.bystander_sessions)
        log_before = self.gateway.log.stat().st_size
        self.window()
        meter.begin()
        start = meter.most
        began = time.monotonic()
        try:
            seen = await case(field)
        except Failed as failure:
            seen, is_judged = Seen(), False  # what it would have needed is unknown
            problems.append(str(failure))
        except (OSError, TimeoutError, asyncio.TimeoutError) as failure:
            seen, is_judged = Seen(), False
            problems.append(f"{type(failure).__name__}: {failure}")
        seconds = time.monotonic() - began
        states, times, first = self.window()
        most = meter.most
        # /metrics ticks every second. In the short form a case may be charged with its neighbour's slow callback; the
        # whole run is judged at its end.
        await asyncio.sleep(0.4 if self.arguments.short else 1.1)
        now, descriptors_now = await self.settle(self.bystander_sessions)

        # Bystanders
        bad = [(first + at, state) for at, state in enumerate(states) if state & 0xff != PROMISED]
        if bad:
            problems.append(f"{len(bad)} bystanders refused, the first: message {bad[0][0]}, code {bad[0][1] >> 8}")
        p50, p99, slowest = (percentile(times, share) / 1e3 for share in (0.5, 0.99, 1))
        rate = len(states) / max(seconds, 0.001)
        if p99 > P99_MAX_MS:
            problems.append(f"bystanders' p99 {p99:.0f} ms, at most {P99_MAX_MS}")
        if slowest > SLOWEST_MAX_MS:
            problems.append(f"a bystander waited {slowest:.0f} ms, at most {SLOWEST_MAX_MS}")
        if seconds > 5 and rate < self.arguments.rate * RATE_SHARE_MIN:
            problems.append(f"bystanders handed in {rate:.0f}/s of {self.arguments.rate}")
        # Memory
        bound = (start + seen.connections * CONNECTION_BYTES + seen.encrypted * TLS_BYTES + SLACK_BYTES
                 + (seen.connections * PIPELINE_BYTES if seen.pipelining else 0)
                 + (MESSAGE_MEMORY if seen.content else 0))
        bound = min(bound, base + MESSAGE_MEMORY + 2 * SLACK_BYTES + self.limit * CONNECTION_BYTES)
        if is_judged and most > bound:
            problems.append(f"memory {most / 2**20:.0f} MiB, at most {bound / 2**20:.0f}")
        # Callbacks
        longest = now[LONGEST]
        slow = int(now[SLOW] - before[SLOW])
        if slow:
            problems.append(f"{slow} callbacks of 10 ms or more; the longest so far took {longest * 1e3:.1f} ms: "
                            + " · ".join(line[-120:] for line in self.gateway.events("slow-callback")[-slow:]))
        # What is left
        if now["postern_sessions"] > self.bystander_sessions:
            problems.append(f"{now['postern_sessions'] - self.bystander_sessions:.0f} sessions are left")
        # Bystanders' own connections come and go, theirs to the sink too.
        if descriptors_now > descriptors_before + 2 * self.bystander_sessions + 20:
            problems.append(f"descriptors {descriptors_before} ▶ {descriptors_now}: {kinds_of_descriptors(self.pid)}")
        log = self.gateway.log.stat().st_size - log_before
        lines = 3 * max(seen.total, seen.connections) + seen.commands + 5 * len(states)
        if is_judged and log > lines * LOG_LINE_BYTES + LOG_SLACK_BYTES:
            problems.append(f"log grew by {log} bytes, at most {lines * LOG_LINE_BYTES + LOG_SLACK_BYTES}")
        if now["postern_alarms_total"] > before["postern_alarms_total"]:
            problems.append(f"alarms: {(await self.command('status'))['alarms']}")  # type: ignore[index]

        answers = " ".join(f"{code}×{count}" for code, count in sorted(seen.counts.items())) or "-"
        line = (f"{'FAILED' if problems else 'ok    '} {name:19} {seconds:5.1f} s | {(case.__doc__ or '').strip()} | "
                f"{max(seen.total, seen.connections)} connections, {answers[:110]}{'; ' if seen.words else ''}"
                f"{seen.words} | {rate:3.0f}/s {p50:.1f}/{p99:.1f}/{slowest:.0f} ms | {most / 2**20:.0f} of "
                f"{bound / 2**20:.0f} MiB | {longest * 1e3:.2f} ms")
        only_slow = slow if slow and len(problems) == 1 else 0
        return Verdict(line, [f"{name}: {problem}" for problem in problems], only_slow)

    # The network from a seed

    async def network(self) -> None:
        """Mail through two bad networks, before and behind the server: nothing lost, nothing changed."""
        messages = 300 if self.arguments.short else 3_000
        sent, taken = Ledger(self.folder / "network.sent", messages), Ledger(self.folder / "network.taken", messages)
        sink = LoadSink(self.folder, taken)
        behind = Proxy.seeded(sink.port, self.arguments.seed, 0.6).start()
        before = Proxy.seeded(self.gateway.port, self.arguments.seed + 1, 0.6).start()
        domains = [f"n{number}.test" for number in range(8)]
        for domain in domains:
            await asyncio.to_thread(self.gateway.create, domain, f"127.0.0.1:{behind.port}", forward__tls="none",
                                    retry__schedule="[1s]")
        began, problems_before = time.monotonic(), len(self.problems)
        source = Source(self.folder, before.port, sent, "network", connections=40, domains=len(domains),
                        domain="n%d.test", session=20, large=1_000)
        deadline = began + (60 if self.arguments.short else 240)
        while source.running() and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        source.kill()
        behind.draw = lambda: (Fault(), Fault())
        while time.monotonic() < deadline + 60:
            usage = [report for domain in domains
                     for report in await self.command("gateway", "usage", domain)]  # type: ignore[union-attr]
            if not any(one["messages"] for one in usage):
                break
            for domain in domains:
                await self.command("queue", "flush", domain)
            await asyncio.sleep(1)
        else:
            self.problems.append(f"network: mail does not leave: {usage}")
        await asyncio.sleep(1)
        became = balance(sent.states(), taken.states())
        for name in ("lost", "changed"):
            if became[name]:
                self.problems.append(f"network: {became[name]} messages {name}")
        if became["promised"] < messages / 4:
            self.problems.append(f"network: only {became['promised']} of {messages} were promised")
        if became["duplicates"] > behind.met.total():
            self.problems.append(f"network: {became['duplicates']} duplicates over {behind.met.total()} connections")
        for domain in domains:
            await self.command("gateway", "delete", domain, "--mail", "drop")
        print(f"{'FAILED' if len(self.problems) > problems_before else 'ok    '} network from seed "
              f"{self.arguments.seed} {time.monotonic() - began:.0f} s: {dict(became)}; faults before the server "
              f"{dict(before.met)}, behind it {dict(behind.met)}", flush=True)

    # The whole

    async def execute(self) -> None:
        arguments = self.arguments
        sink = LoadSink(self.folder, self.taken)
        self.gateway.start()
        os.setpriority(os.PRIO_PROCESS, 0, 5)  # from here on, what we start gives way to the server
        print(f"hostile: commit {commit()}, {self.gateway.description()}, seed {arguments.seed}, descriptors "
              f"{self.limit}{', short' if arguments.short else ''}", flush=True)
        self.gateway.create_many([f"b{number}.test" for number in range(BYSTANDER_DOMAINS)],
                                 f"127.0.0.1:{sink.port}", forward__tls="none")
        recorder = await Primary("recorder").start()

        async def create(domain: str, port: int) -> None:
            await asyncio.to_thread(self.gateway.create, domain, f"127.0.0.1:{port}", forward__tls="none")

        async def delete(domain: str) -> None:
            await self.command("gateway", "delete", domain, "--mail", "drop")

        await create("recorded.test", recorder.port)
        await self.warm_up()
        idle_descriptors = descriptors(self.pid)
        self.slow_at_start = (await self.metrics())[SLOW]
        meter = Meter(self.pid)

        async def sample() -> None:
            meter.look()

        connections = 8
        self.bystander_sessions = connections
        source = Source(self.folder, self.gateway.port, self.sent, "bystanders", first=WARM_UP, bind=BYSTANDERS,
                        sources=8, connections=connections, domains=BYSTANDER_DOMAINS, domain="b%d.test",
                        rate=arguments.rate, session=50)
        wait_until("bystanders", lambda: self.sent.states(WARM_UP, 200)[-1] != 0, 30)
        await asyncio.sleep(2)
        states, times, _ = self.window()
        base = memory(self.pid)
        print(f"alone: bystanders {percentile(times, .5) / 1e3:.1f}/{percentile(times, .99) / 1e3:.1f}/"
              f"{max(times) / 1e3:.0f} ms (p50/p99/slowest), base {base / 2**20:.0f} MiB, bound of memory: before + "
              f"{SLACK_BYTES >> 20} MiB + {CONNECTION_BYTES >> 10} KiB a connection + {TLS_BYTES >> 10} KiB if TLS + "
              f"{MESSAGE_MEMORY >> 20} MiB if there is content", flush=True)
        field = Field(self.gateway.port, recorder, arguments.short, random.Random(arguments.seed), create, delete,
                      sample)
        chosen = [case for case in cases.CASES
                  if (case.__name__ in arguments.only.split(",") if arguments.only
                      else not (arguments.short and case in cases.LONG))]
        for case in chosen:
            verdict = await self.run_case(case, field, meter, base)
            print(verdict.line, flush=True)
            if verdict.slow:
                print(f"       again, for this alone: {verdict.problems[0]}", flush=True)
                self.slow_at_start += verdict.slow
                verdict = await self.run_case(case, field, meter, base)
                print(verdict.line, flush=True)
            for problem in verdict.problems:
                print(f"       FAILED {problem}", flush=True)
            self.problems += verdict.problems
            if not self.gateway.service or not self.gateway.service.running():
                self.problems.append(f"the server ended: {self.gateway.log_text()[-2_000:]}")
                return
        if not arguments.only or "network" in arguments.only.split(","):
            await self.network()
        await self.finish(source, sink, idle_descriptors)

    async def warm_up(self) -> None:
        """What is opened once stays open; then at rest, as it will be at the end."""
        source = Source(self.folder, self.gateway.port, self.sent, "warm-up", bind=BYSTANDERS, sources=8,
                        connections=40, domains=BYSTANDER_DOMAINS, domain="b%d.test", session=50, count=WARM_UP)
        source.process.wait(60)
        source.kill()
        self.next_message = WARM_UP
        if not await self.comes_to_rest(30):
            raise RuntimeError("the server does not come to rest after the warm-up")

    async def comes_to_rest(self, seconds: float) -> bool:
        """No session, nothing queued; then a moment for what is removed last."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            now = await self.metrics()
            if not any(now[f"postern_{name}"] for name in AT_REST):
                await asyncio.sleep(1)
                return True
            await asyncio.sleep(0.5)
        return False

    async def finish(self, source: Source, sink: LoadSink, idle_descriptors: int) -> None:
        """Nobody is left: what of them is?"""
        source.kill()
        if not await self.comes_to_rest(30):
            now = await self.metrics()
            self.problems.append("not at rest: " + ", ".join(
                f"{name} {value:.0f}" for name, value in now.items()
                if value and name.partition("{")[0][8:] in (*AT_REST, "gateway_queued")))
        await asyncio.sleep(2)
        cpu, began = cpu_seconds(self.pid), time.monotonic()
        await asyncio.sleep(3)
        share = (cpu_seconds(self.pid) - cpu) / (time.monotonic() - began)
        if share > IDLE_CPU_SHARE:
            self.problems.append(f"idle, and yet {share * 100:.1f} % of a core")
        if (slow := (await self.metrics())[SLOW]) > self.slow_at_start:
            self.problems.append(f"{slow - self.slow_at_start:.0f} callbacks of 10 ms or more in the whole run")
        left = descriptors(self.pid)
        # A commit lane opens its file system at its first commit, which may come behind the warm-up.
        if left > idle_descriptors + len(self.gateway.command("status")["reactors"]):
            self.problems.append(f"descriptors {idle_descriptors} ▶ {left}: {dict(kinds_of_descriptors(self.pid))}")
        states, arrivals = self.sent.states(), self.taken.states()
        became = balance(states, arrivals)
        for name in ("lost", "changed", "duplicates", "refused"):
            if became[name]:
                self.problems.append(f"bystanders: {became[name]} messages {name}")
        times = [value for state, value in zip(states, self.sent.values()) if state == PROMISED]
        refused = sum(state & 0xff == REFUSED for state in states)
        print(f"\nbystanders: promised {became['promised']}, refused {refused}, arrived {became['arrived']}, lost "
              f"{became['lost']}, changed {became['changed']}, duplicates {became['duplicates']}; p50/p99/slowest "
              f"{percentile(times, .5) / 1e3:.1f}/{percentile(times, .99) / 1e3:.1f}/{max(times) / 1e3:.0f} ms")
        print(f"at rest: {share * 100:.1f} % of a core, descriptors {idle_descriptors} ▶ {left}, resident "
              f"{memory(self.pid) / 2**20:.0f} MiB, log {self.gateway.log.stat().st_size / 2**20:.1f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description="hostile peers beside known good senders")
    parser.add_argument("--short", action="store_true", help="a tenth of the numbers, for CI")
    parser.add_argument("--only", default="")
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--rate", type=int, default=100, help="bystanders' messages a second")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        for case in cases.CASES:
            print(f"{case.__name__:22} {(case.__doc__ or '').strip()}")
        return 0
    exit_cleanly_on_signals()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # writes to peers that have gone are our trade
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1 << 32)
    started = time.monotonic()
    try:
        campaign = Campaign(arguments)
    except Skip as reason:
        print(reason)
        return 1
    with campaign.gateway:
        asyncio.run(campaign.execute())
    for problem in campaign.problems:
        print(f"FAILED {problem}")
    if arguments.keep:
        keep_folders()
    print(f"{'FAILED' if campaign.problems else 'passed'} in {time.monotonic() - started:.0f} s, seed {arguments.seed}")
    return 1 if campaign.problems else 0


if __name__ == "__main__":
    sys.exit(main())
