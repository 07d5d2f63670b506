"""Faults that come from outside the process: pauses, full disks, no inodes, no descriptors; and all of them together.

Each part runs on a gateway that is not running yet, with the ledger of every 250 and every hand-over, and returns what
went wrong. All moments come from the seed.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from account import Account  # noqa: E402
from calls import send  # noqa: E402
from disk import Foreign, small  # noqa: E402
from failing import EVER, WRITING, Failing  # noqa: E402
from flood import Entry, Flood  # noqa: E402
from harness import body_of_lines, digest, header_section, scratch_folder, wait_until  # noqa: E402
from posternctl import Gateway, Postern  # noqa: E402
from sink import Sink  # noqa: E402

DOMAINS = [f"d{number}.test" for number in range(8)]
PEER_TIMEOUT_SECONDS = 3
"""How long senders and sink wait for a paused gateway."""

FULL = "452 4.3.1"
FULL_WORDS = 'reply="452 4.3.1 Insufficient system storage'
SPIN_MAX = 0.3
"""Cores that a server may use while it can accept nothing."""


class Stage:
    """Gateway, sink, senders and their account."""

    def __init__(self, gateway: Gateway, seed: int, *sink_options: str, unlinks_fail: bool = False) -> None:
        self.gateway = gateway
        self.folder = scratch_folder("faults")
        self.seed = seed
        self.draw = random.Random(seed)
        self.sink = Sink(self.folder, *sink_options).start()
        self.account = Account(gateway, self.sink, kill_bound=None, unlinks_fail=unlinks_fail)
        self.problems = self.account.problems

    def begin(self, *flood_options: str, connections: int = 20) -> Flood:
        self.gateway.start()
        self.gateway.create_many(DOMAINS, f"127.0.0.1:{self.sink.port}", forward__tls="none",
                                 retry__schedule="[1s]")
        self.flood = Flood(self.folder, self.gateway.port, "--connections", str(connections), "--seed", str(self.seed),
                           "--domains", f"d%d.test:{len(DOMAINS)}", *flood_options)
        self.account.flood = self.flood
        return self.flood

    def wait_for_load(self, messages: int = 1, seconds: float = 30) -> None:
        before = self.flood.promises()
        wait_until("load", lambda: self.flood.promises() >= before + messages, seconds)

    def expect_no_5xx(self) -> None:
        for code, count in self.flood.refusals().items():
            if not code.startswith("4"):
                self.problems.append(f"senders were told {code}, {count} times")

    def pids(self) -> list[int]:
        service = self.gateway.service  # type: ignore[attr-defined]
        return [service.pid, *service.children()]

    def pid(self) -> int:
        return int(self.gateway.service.pid)  # type: ignore[attr-defined]

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def finish(self, hasten: bool = True) -> list[str]:
        self.flood.pause()
        self.account.settle(hasten=hasten)
        self.expect_no_5xx()
        print(self.account.report())
        self.gateway.stop()
        return self.problems + self.gateway.complaints()


# Pauses

def pauses(gateway: Gateway, seed: int, rounds: int, longest: float = 8.0) -> list[str]:
    """SIGSTOP at random moments, beyond the patience of both peers too; one in three is killed while it is stopped."""
    stage = Stage(gateway, seed, "--timeout", str(PEER_TIMEOUT_SECONDS))
    with gateway:
        stage.begin("--timeout", str(PEER_TIMEOUT_SECONDS))
        for number in range(1, rounds + 1):
            stage.wait_for_load()
            time.sleep(stage.draw.uniform(0, 0.8))
            seconds = min(longest, 0.1 * (longest / 0.1) ** stage.draw.random())
            kills = stage.draw.random() < 1 / 3
            for pid in stage.pids():
                os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            if kills:
                gateway.kill()
                stage.account.after_cut()
                waiting, still_open = stage.account.after_kill(f"pause {number}")
                print(f"  pause {number}: {seconds:.1f} s, killed in it with {waiting} waiting, {still_open} of them "
                      "handed over", flush=True)
                gateway.start()
            else:
                for pid in stage.pids():
                    os.kill(pid, signal.SIGCONT)
                time.sleep(0.1)
                stage.account.after_cut()
                print(f"  pause {number}: {seconds:.1f} s", flush=True)
        return stage.finish()


# Full disks

def full(gateway: Gateway, seed: int, *, inodes: bool, brief: bool = False) -> list[str]:
    """The spool's disk has no room: taken by mail, then by somebody else; and room again, without a restart."""
    small(gateway.data, "400M" if inodes else "80M", 3_000 if inodes else 100_000)
    stage = Stage(gateway, seed)
    deferring = stage.folder / "later"
    stage.sink.options = ("--later-while", str(deferring))
    stage.sink.stop()
    stage.sink.start()
    foreign = Foreign(gateway.data)
    with gateway:
        stage.begin("--size", "300:12000", "--large-share", "0.05")
        stage.wait_for_load(20)
        try:
            full_of_mail(stage)
            full_of_foreign_files(stage, foreign, deferring, foreign.take_inodes if inodes else foreign.fill)
        except TimeoutError as late:
            stage.problems.append(str(late))
            if stage.sink.service is None:
                stage.sink.start()
        deferring.unlink(missing_ok=True)
        foreign.leave()
        stage.wait_for_load(200, 30)
        for code, count in stage.flood.refusals().items():
            if code != FULL:
                stage.problems.append(f"on a full disk senders were told {code}, not {FULL}, {count} times")
        return stage.finish()


def full_of_mail(stage: Stage) -> None:
    """The primary is away until senders hear of it; then all leaves, and mail comes again."""
    flood = stage.flood
    stage.sink.stop()
    stage.account.after_cut()
    wait_until("452 because of mail", lambda: flood.refusals().get(FULL, 0) > 20, 40)
    flood.pause()
    waiting = stage.gateway.queued()
    stage.sink.start()
    wait_until("the end of the backlog", lambda: stage.gateway.queued() < waiting / 4, 60)
    flood.go_on()
    stage.wait_for_load(100)
    print(f"  full of mail: {waiting} waited, {flood.refusals()}, then it left and mail came again", flush=True)


def full_of_foreign_files(stage: Stage, foreign: Foreign, deferring: Path, take: Callable[[], None]) -> None:
    """Somebody else takes all that is left, again and again; mail that waits, or is half settled, must leave."""
    flood = stage.flood
    if isinstance(stage.gateway, Postern):
        deferring.touch()
        half_settled(stage)
    stage.sink.stop()
    stage.account.after_cut()
    wait_until("mail waiting", lambda: stage.gateway.queued() > 100, 30)
    take()
    before, promised = flood.refusals().get(FULL, 0), flood.promises()

    def refused() -> bool:
        take()
        return flood.refusals().get(FULL, 0) > before + 40

    wait_until("452 because of somebody else", refused, 20)
    stage.sink.start()

    def drained() -> bool:
        take()
        stage.account.read()
        return not any(not recipient.startswith("later") for _, recipient in stage.account.due)

    wait_until("the end of mail on a full disk", drained, 40)
    space = os.statvfs(stage.gateway.data)
    print(f"  full of somebody else's: {space.f_bavail * space.f_frsize} bytes and {space.f_favail} inodes free, "
          f"all left, {flood.promises() - promised} taken meanwhile", flush=True)
    if isinstance(stage.gateway, Postern):
        say_full(stage)


def half_settled(stage: Stage) -> None:
    """A message of which one recipient is done and one is deferred."""
    recipients = ("ok@d0.test", "later@d0.test")
    for number in range(5):
        content = header_section(f"half-{number}", "from@sender.test", recipients[0]) + body_of_lines(3000, "half")
        entry = Entry(f"half-{number}", digest(content), recipients)
        reply = send(stage.gateway.port, "from@sender.test", recipients, content)
        if reply.startswith("250"):
            stage.account.sent(entry)
            stage.account.promised(entry, reply.split()[-1])


def say_full(stage: Stage) -> None:
    """The operator can see why senders come back: in the log, and in the numbers."""
    log = stage.gateway.log_text()
    if FULL_WORDS not in log:
        stage.problems.append("the log does not say that the disk is full")
    status = stage.gateway.command("status")  # type: ignore[attr-defined]
    alarms = {line.split(" event=")[1].split()[0] for line in log.splitlines() if "level=error" in line}
    print(f"  said: {log.count(FULL_WORDS)} refusals in the log, errors {sorted(alarms) or 'none'}, status ready "
          f"{status['ready']}, alarms {status.get('alarms')}")


# Descriptors

def descriptors(gateway: Gateway, seed: int, limit: int = 400) -> list[str]:
    """Few descriptors from the start, then none left while running: no spinning, mail goes on, and it recovers."""
    gateway.prefix = ["prlimit", f"--nofile={limit}:{limit}"]
    stage = Stage(gateway, seed)
    idle: list[socket.socket] = []
    with gateway:
        stage.begin(connections=10)
        stage.wait_for_load(50)

        # More clients than places: those in it go on, delivery and control too. A stand-in has no bound on its clients.
        for _ in range(2 * limit if isinstance(gateway, Postern) else limit // 4):
            idle.append(connect(gateway.port))
        stage.wait_for_load(50)
        stage.gateway.queued()
        used = len(os.listdir(f"/proc/{stage.pid()}/fd"))
        print(f"  limit {limit}: {len(idle)} idle clients beside the load, {used} descriptors used, mail goes on",
              flush=True)
        if isinstance(gateway, Postern) and used >= limit:
            stage.problems.append(f"clients took all {limit} descriptors: nothing is left for files and primaries")
        for connection in idle:
            connection.close()
        idle.clear()

        # None left while it runs.
        stage.flood.pause()
        time.sleep(0.5)
        numbers = sorted(int(name) for name in os.listdir(f"/proc/{stage.pid()}/fd"))
        hard = resource.prlimit(stage.pid(), resource.RLIMIT_NOFILE)[1]
        resource.prlimit(stage.pid(), resource.RLIMIT_NOFILE, (first_free(numbers), hard))
        stage.flood.go_on()
        logged = len(gateway.log_text())
        time.sleep(0.5)
        began, cpu = time.monotonic(), stage.cpu_seconds()
        time.sleep(3)
        share = (stage.cpu_seconds() - cpu) / (time.monotonic() - began)
        # io_uring accepts under the limit that held when it began to; then it is files that can't be opened.
        said = sum("Too many open files" in line for line in gateway.log_text()[logged:].splitlines())
        print(f"  none left: {share:.2f} cores used, said {said} times", flush=True)
        if share > SPIN_MAX:
            stage.problems.append(f"without descriptors it uses {share:.2f} cores for nothing")
        if isinstance(gateway, Postern) and not said:
            stage.problems.append("it does not say that it has no descriptors left")
        resource.prlimit(stage.pid(), resource.RLIMIT_NOFILE, (hard, hard))
        stage.wait_for_load(200, 20)

        # Lowered under full load, to what happens to be open.
        numbers = sorted(int(name) for name in os.listdir(f"/proc/{stage.pid()}/fd"))
        resource.prlimit(stage.pid(), resource.RLIMIT_NOFILE, (first_free(numbers), hard))
        time.sleep(3)
        resource.prlimit(stage.pid(), resource.RLIMIT_NOFILE, (hard, hard))
        stage.wait_for_load(200, 20)
        print(f"  lowered under load: {stage.flood.refusals()}, and mail goes on", flush=True)
        return stage.finish()


def first_free(numbers: list[int]) -> int:
    """The lowest descriptor number that is not taken."""
    return next(number for number in range(len(numbers) + 1) if number not in set(numbers))


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.setblocking(False)
    return connection


# All together

def mixed(gateway: Gateway, seed: int, rounds: int) -> list[str]:
    """Kills, pauses, failing calls, full disks and lowered limits, in an order and at moments drawn from the seed."""
    stage = Stage(gateway, seed, unlinks_fail=True)
    failing = Failing(gateway)
    foreign = Foreign(gateway.data)
    draw = stage.draw
    with gateway:
        stage.begin()
        for number in range(1, rounds + 1):
            fault = draw.choice(("kill", "pause", "kill in a pause", "calls", "calls and kill", "full", "full and kill",
                                 "descriptors", "primary away"))
            moment, length = draw.uniform(0, 0.5), draw.uniform(0.1, 1.5)
            kind, error = draw.choice(WRITING), draw.choice((errno.EIO, errno.ENOSPC))
            start, count = draw.randint(1, 300), draw.choice((1, 4, 50, EVER))
            stage.wait_for_load(1, 60)
            time.sleep(moment)
            print(f"  round {number}: {fault}{f', {kind} {errno.errorcode[error]}' if 'calls' in fault else ''}",
                  flush=True)
            if fault == "primary away":
                stage.sink.stop()
                stage.account.after_cut()
                time.sleep(length)
                stage.sink.start()
            if "pause" in fault:
                for pid in stage.pids():
                    os.kill(pid, signal.SIGSTOP)
                time.sleep(length)
                if "kill" not in fault:
                    for pid in stage.pids():
                        os.kill(pid, signal.SIGCONT)
            if "calls" in fault:
                failing.arm(kind, error, start, count)
                time.sleep(length)
            if "full" in fault:
                foreign.fill()
                time.sleep(length)
                foreign.fill()
            if fault == "descriptors":
                hard = resource.prlimit(stage.pid(), resource.RLIMIT_NOFILE)[1]
                low = max(8, len(os.listdir(f"/proc/{stage.pid()}/fd")) + draw.randint(-4, 4))
                resource.prlimit(stage.pid(), resource.RLIMIT_NOFILE, (low, hard))
                time.sleep(length)
                resource.prlimit(stage.pid(), resource.RLIMIT_NOFILE, (hard, hard))
            if "kill" in fault:
                gateway.kill()
                failing.disarm()
                stage.account.after_kill(f"round {number}")
                foreign.leave()
                gateway.start()
            failing.disarm()
            foreign.leave()
            if stage.problems:
                break
        problems = stage.finish()
    print(f"  calls failed: {failing.report()}")
    return problems
