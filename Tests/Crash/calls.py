"""Fails the first, second, third … file call of each kind under a fixed scenario: nothing lost, nothing 5xx, all said.

    messages ──▶ gateway (call N of a kind fails) ──▶ sink        one server process for all N, armed anew for each

Scenario `running`: one message each for two gateways, one for both, a large one, one with a recipient who is deferred
(state file), one whose recipient is refused (DSN). Scenario `start`: mail waits, kill -9, the failure meets the start.
"""

from __future__ import annotations

import errno
import random
import smtplib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from account import Account  # noqa: E402
from failing import EVER, SHORT, WRITING, Failing  # noqa: E402
from flood import Entry  # noqa: E402
from harness import body_of_lines, digest, greets, header_section, scratch_folder, wait_until  # noqa: E402
from posternctl import Gateway, Postern  # noqa: E402
from sink import Sink  # noqa: E402

RUNNING = [(kind, errno.EIO) for kind in ("create", "open", "write", "read", "sync-file", "sync-disk", "close",
                                          "rename", "unlink", "send")] + [
    ("create", errno.ENOSPC), ("write", errno.ENOSPC), ("write", SHORT), ("sync-disk", errno.ENOSPC),
    ("rename", errno.ENOSPC), ("open", errno.EMFILE)]
STARTING = [(kind, errno.EIO) for kind in ("create", "open", "write", "read", "sync-file", "sync-disk", "close",
                                           "rename", "unlink", "make-folder", "list")] + [
    ("create", errno.ENOSPC), ("write", errno.ENOSPC), ("write", SHORT), ("open", errno.EMFILE)]
SLOW = ("list", "unlink")
"""Kinds that are tried again after ten seconds: not drawn for a sample."""

SEVERAL = 4
"""Calls in a row that fail in the runs with more than one."""

SETTLE_SECONDS = 40
WORKS_AGAIN_SECONDS = 20
CALLS_MAX = 200
"""Above, the scenario would have no end."""

def send(port: int, sender: str, recipients: tuple[str, ...], content: bytes, timeout: float = 30) -> str:
    """The last reply to one message: the first that is no 2xx or 3xx, or that to the content."""
    try:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="sender.test", timeout=timeout) as client:
            client.ehlo()
            for command in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients)):
                code, text = client.docmd(command)
                if code != 250:
                    return f"{code} {text.decode()}"
            code, text = client.data(content)
            return f"{code} {text.decode()}"
    except smtplib.SMTPResponseException as refusal:
        return f"{refusal.smtp_code} {refusal.smtp_error!r}"
    except (OSError, smtplib.SMTPException) as broken:
        return f"000 {broken}"


class Calls:
    """The gateway under its scenario; `problems` in the end."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.folder = scratch_folder("calls")
        self.deferring = self.folder / "later"
        self.sink = Sink(self.folder, "--later-while", str(self.deferring)).start()
        self.account = Account(gateway, self.sink, kill_bound=None, unlinks_fail=True)
        self.failing = Failing(gateway)
        self.problems = self.account.problems
        self.refused: Counter[str] = Counter()
        self.silent: Counter[str] = Counter()
        self.number = 0
        self.runs = 0
        self.unavailable: Counter[str] = Counter()
        self.ends: list[str] = []
        """Sentences of servers that would not start."""

    def prepare(self) -> None:
        self.gateway.start()
        for domain in ("a.test", "b.test", "dsn.test"):
            self.gateway.create(domain, f"127.0.0.1:{self.sink.port}", forward__tls="none", retry__schedule="[1s]")

    # Sending

    def send(self, recipients: tuple[str, ...], size: int = 2000, refused: tuple[str, ...] = ()) -> bool:
        """One message; `refused`: recipients that the sink refuses, of whom the sender must hear."""
        self.number += 1
        test_id = f"m{self.number}"
        sender = f"s{self.number}@dsn.test"
        content = header_section(test_id, sender, recipients[0] if recipients else refused[0]) + body_of_lines(
            size, test_id)
        entry = Entry(test_id, digest(content), recipients, notice=sender if refused else "")
        self.account.sent(entry)
        reply = send(self.gateway.port, sender, (*recipients, *refused), content)
        if reply.startswith("250"):
            self.account.promised(entry, reply.split()[-1])
            return True
        entry.refused = True
        self.refused[" ".join(reply.split()[:2])] += 1
        if not reply.startswith("4"):
            self.problems.append(f"{self.label}: the sender was told {reply}")
        return False

    def send_all(self) -> None:
        self.send(("u@a.test",))
        self.send(("u@b.test",))
        self.send(("u@a.test", "u@b.test"))
        self.send(("u@a.test",), 400_000)
        if isinstance(self.gateway, Postern):
            self.send(("ok@a.test", "later@a.test"))
            self.send((), refused=("never@b.test",))

    def refusals(self) -> int:
        return sum(self.refused.values())

    # Runs

    def running(self, kind: str, fault: int, start: int, count: int = 1, whose: str = "spool") -> int:
        """One run; how many calls failed."""
        self.failing.arm(kind, fault, start, count, whose)
        self.label = f"running, {self.failing.label}, {name(start, count)}"
        logged, refused = len(self.gateway.log_text()), self.refusals()
        self.deferring.touch()
        self.send_all()
        self.wait_for_all_but("later@a.test")
        self.deferring.unlink()
        if count == EVER:
            time.sleep(1)
        failed = self.failing.disarm()[1]
        self.settle()
        self.judge_words(fault, failed, logged, refused)
        self.works_again()
        self.runs += 1
        return failed

    def starting(self, kind: str, fault: int, start: int, count: int = 1) -> int:
        """One run in which a start meets the failure."""
        self.label = "before the start"
        self.settle(empties=True)
        self.deferring.touch()
        if isinstance(self.gateway, Postern):
            self.send(("ok@a.test", "later@a.test"))
            self.wait_for_all_but("later@a.test")
            if start % 3 == 0:
                wait_until("the state file", lambda: any(
                    name.endswith(".state") for name in self.gateway.leftovers()), 20)  # type: ignore[attr-defined]
        self.sink.stop()
        self.account.after_cut()
        self.send(("u@a.test",))
        self.send(("u@a.test", "u@b.test"))
        self.send(("u@b.test",), 400_000)
        self.gateway.kill()
        self.account.after_kill(self.label)
        self.failing.arm(kind, fault, start, count)
        self.label = f"start, {self.failing.label}, {name(start, count)}"
        logged, refused = len(self.gateway.log_text()), self.refusals()
        service = self.gateway.launch()
        wait_until("a greeting or an end", lambda: not service.running() or greets(self.gateway.port), 20)
        if not service.running():
            self.failing.hold()
            sentence = service.tail(1)
            self.ends.append(f"{self.failing.label}: {sentence}")
            if not sentence.startswith("postern: "):
                self.problems.append(f"{self.label}: it ended without a sentence: {sentence}")
            self.gateway.service = None  # type: ignore[attr-defined]
            self.gateway.start()
        time.sleep(0.1)  # for the log
        if "event=store-unavailable" in self.gateway.log_text()[logged:]:
            # It says so, and needs a restart by design: nothing is made anew in the place of what may not be mounted.
            self.failing.hold()
            self.unavailable[self.failing.label] += 1
            self.gateway.stop()
            self.gateway.start()
        self.sink.start()
        self.deferring.unlink()
        time.sleep(0.2)
        self.wait_for_all_but()
        failed = self.failing.disarm()[1]
        self.settle()
        self.judge_words(fault, failed, logged, refused)
        self.works_again()
        self.runs += 1
        return failed

    def wait_for_all_but(self, *left: str) -> None:
        """Until all that was promised has come, or six seconds of silence."""
        deadline = time.monotonic() + 6
        while any(recipient not in left for _, recipient in self.account.due) and time.monotonic() < deadline:
            self.gateway.hasten()
            if self.account.read():
                deadline = time.monotonic() + 6
            time.sleep(0.02)

    def settle(self, empties: bool = False) -> None:
        """`empties`: also what failed to be unlinked has gone at its next try, ten seconds later."""
        self.account.settle(self.label, silence=SETTLE_SECONDS, hasten=True, empties=empties)

    def works_again(self) -> None:
        """Without a restart, and without a hand touching the spool."""
        failure, self.label = self.label, f"after {self.label}"
        deadline = time.monotonic() + WORKS_AGAIN_SECONDS
        for domain in ("a.test", "b.test"):
            while not self.send((f"again@{domain}",)):
                if time.monotonic() > deadline:
                    self.problems.append(f"{failure}: {domain} takes no mail {WORKS_AGAIN_SECONDS} s later")
                    break
                time.sleep(0.5)
        self.settle()

    def judge_words(self, fault: int, failed: int, logged: int, refused: int) -> None:
        """The log says what failed when somebody was refused for it; what was tried again in silence is counted."""
        if not failed or fault == SHORT or not isinstance(self.gateway, Postern):
            return
        words = {errno.EIO: "Input/output error", errno.ENOSPC: "No space left", errno.EMFILE: "Too many open files"}
        log = self.gateway.log_text()[logged:]
        if words[fault] not in log and f"error {fault}" not in log:
            self.silent[self.failing.label] += 1
            if self.refusals() > refused:
                self.problems.append(f"{self.label}: the log does not say what failed")

    def ladder(self, run_one, kind: str, fault: int) -> None:  # type: ignore[no-untyped-def]
        """N = 1, 2, 3 … until the scenario makes fewer calls."""
        for number in range(1, CALLS_MAX):
            if not run_one(kind, fault, number) or self.problems:
                break

    def database(self) -> None:
        """The database's own calls: a change is refused with a sentence, mail goes on, and later the change is made."""
        for kind in ("write", "sync-file"):
            self.failing.arm(kind, errno.EIO, 1, EVER, "database")
            self.label = f"database, {self.failing.label}"
            domain = f"new-{kind}.test"
            try:
                self.gateway.create(domain, f"127.0.0.1:{self.sink.port}")
                refused = ""
            except RuntimeError as refusal:
                refused = str(refusal)
            self.send(("u@a.test",))
            failed = self.failing.disarm()[1]
            if failed and "exit 1" not in refused:
                self.problems.append(f"{self.label}: a change that is not stored was not refused: {refused!r}")
            self.settle()
            if refused:
                self.gateway.create(domain, f"127.0.0.1:{self.sink.port}")
            self.runs += 1


def name(start: int, count: int) -> str:
    if count == EVER:
        return f"from call {start} on"
    return f"call {start}" if count == 1 else f"calls {start} to {start + count - 1}"


def plan(calls: Calls, seed: int, sample: int | None) -> Iterator[None]:
    """All runs, or `sample` of them drawn from the seed; yields after each group."""
    stands_in = not isinstance(calls.gateway, Postern)
    if sample is None:
        for kind, fault in RUNNING:
            calls.ladder(calls.running, kind, fault)
            yield
        for kind, fault in STARTING if not stands_in else []:
            calls.ladder(calls.starting, kind, fault)
            yield
        for kind in WRITING:
            calls.running(kind, errno.EIO, 2, SEVERAL)
            calls.running(kind, errno.EIO, 1, EVER)
            yield
    else:
        draw = random.Random(seed)
        running, starting = ([one for one in all_kinds if one[0] not in SLOW] for all_kinds in (RUNNING, STARTING))
        for number in range(sample):
            if stands_in or number % 3:
                calls.running(*draw.choice(running), draw.randint(1, 5))
            else:
                calls.starting(*draw.choice(starting), draw.randint(1, 8))
            yield
    if not stands_in:
        calls.database()
        yield


def calls_part(gateway: Gateway, seed: int, sample: int | None = None) -> list[str]:
    """Returns the problems."""
    calls = Calls(gateway)
    with gateway:
        calls.prepare()
        began, before = time.monotonic(), calls.failing.totals.copy()
        for _ in plan(calls, seed, sample):
            totals = calls.failing.totals - before
            before = calls.failing.totals.copy()
            print(f"  {', '.join(f'{label}: {count}' for label, count in totals.items()) or 'nothing'} failed; "
                  f"{calls.runs} runs, {time.monotonic() - began:.0f} s", flush=True)
            if calls.problems:
                break
        calls.label = "the end"
        calls.settle(empties=True)
        gateway.stop()
        complaints = gateway.complaints()
    print(f"{calls.account.report()}\n{calls.runs} runs, calls failed by kind: {calls.failing.report()}")
    print(f"replies to those refused: {dict(calls.refused)}; not said in the log: {dict(calls.silent)}")
    print(f"starts with a gateway that was said to be unavailable until the next start: {dict(calls.unavailable)}")
    for sentence, count in Counter(calls.ends).items():
        print(f"would not start, {count} times: {sentence}")
    return calls.problems + complaints
