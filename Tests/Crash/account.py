"""What was promised against what arrived, looked at again at every kill. The judge of all programs in this folder.

After a kill, when the sink has read all that was on its way, each promise is exactly one of: arrived, or in the spool.
Neither is lost, at once and with its round. Both is a hand-over that the kill interrupted: it may arrive once more.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from flood import Entry, Flood  # noqa: E402
from harness import wait_until  # noqa: E402
from posternctl import Gateway, Postern  # noqa: E402
from sink import Sink, Taken  # noqa: E402

OPEN_PER_CONNECTION = 2 + 16
"""Hand-overs that a kill may repeat per connection: two open, and sixteen whose settle is not yet done."""

OPEN_UNANSWERED = 2
"""Hand-overs of a connection whose reply may be lost when the peer ends it."""

SHOWN = 5
DRAIN_SILENCE_SECONDS = 30
LEFTOVER_SECONDS = 15
"""How long a settle that failed waits for its next try (10 s), and some."""

File = tuple[str, str]
"""A queue id and a domain: one file of the spool."""


def domain_of(recipient: str) -> str:
    return recipient.rpartition("@")[2]


class Account:
    """One gateway's promises and arrivals. `read` at any time, `after_kill` at each kill, `settle` at the end."""

    def __init__(self, gateway: Gateway, sink: Sink, flood: Flood | None = None, *,
                 kill_bound: int | None = OPEN_PER_CONNECTION, unlinks_fail: bool = False) -> None:
        """`kill_bound`: None when more than a kill kept settles waiting.

        `unlinks_fail`: state files of messages that have left may stay until the next start, which drops them.
        """
        self.unlinks_fail = unlinks_fail
        self.gateway, self.sink, self.flood = gateway, sink, flood
        self.kill_bound = kill_bound
        self.entries: dict[str, Entry] = {}
        self.due: dict[tuple[str, str], Entry] = {}
        """Promised and not yet arrived, by test id and recipient."""
        self.arrivals: dict[tuple[str, str], list[Taken]] = defaultdict(list)
        self.files: dict[File, int] = {}
        """Arrived, with the last connection that it came over."""
        self.excused: Counter[File] = Counter()
        self.last_of_connection: dict[int, list[File]] = defaultdict(list)
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.killed = False

    # What the programs that send by themselves tell

    def sent(self, entry: Entry) -> None:
        self.entries[entry.test_id] = entry

    def promised(self, entry: Entry, queue_id: str) -> None:
        entry.promised, entry.queue_id = True, queue_id
        self._due(entry)

    def _due(self, entry: Entry) -> None:
        self.counts["promised"] += 1
        for recipient in entry.recipients:
            if (entry.test_id, recipient) not in self.arrivals:
                self.due[entry.test_id, recipient] = entry
        if entry.notice and (entry.test_id, entry.notice) not in self.arrivals:
            self.due[entry.test_id, entry.notice] = entry

    # What is read from outside

    def read(self) -> int:
        """Takes what both records have beyond the last call; how many messages arrived."""
        if self.flood is not None:
            for entry in self.flood.promised_meanwhile():
                self._due(entry)
            self.entries = self.flood.messages
        count = 0
        for taken in self.sink.taken():
            count += 1
            for recipient in taken.recipients:
                self.arrivals[taken.test_id, recipient].append(taken)
                self.due.pop((taken.test_id, recipient), None)
            for domain in {domain_of(recipient) for recipient in taken.recipients}:
                self.files[taken.queue_id, domain] = taken.connection
                self.last_of_connection[taken.connection] = [
                    *self.last_of_connection[taken.connection][1 - OPEN_UNANSWERED:], (taken.queue_id, domain)]
        self.counts["arrived"] += count
        return count

    def wait_for_sink(self) -> None:
        """Until the sink has read all that a dead gateway sent."""

        def is_silent() -> bool:
            self.read()
            return not self.sink.open_connections

        wait_until("the end of the killed gateway's connections at the sink", is_silent, 20, every=0.01)

    def after_kill(self, label: str) -> tuple[int, int]:
        """The gateway is dead: how many wait, and how many of them have arrived already."""
        self.killed = True
        if self.sink.service is not None:
            self.wait_for_sink()
        self.read()
        spool = self.gateway.spooled()
        for (test_id, recipient), entry in list(self.due.items()):
            if recipient == entry.notice:
                continue  # it has an id of its own
            if (entry.queue_id, domain_of(recipient)) not in spool and (entry.queue_id, "") not in spool:
                self.problem(f"lost at {label}: {test_id} for {recipient}, {entry.queue_id} is neither here nor there")
                self.counts["lost"] += 1
                del self.due[test_id, recipient]
        both = {file for file in self.files if file in spool or (file[0], "") in spool}
        per_connection = Counter(self.files[file] for file in both)
        for connection, count in per_connection.items():
            if self.kill_bound is not None and count > self.kill_bound:
                self.problem(f"{label}: {count} hand-overs of connection {connection} not settled, "
                             f"at most {self.kill_bound} may be open")
        self.excused.update(both)
        self.counts["open at kills"] += len(both)
        return len(spool), len(both)

    def after_cut(self) -> None:
        """The sink ended connections itself: whose reply was on its way may arrive once more."""
        self.read()
        for connection in self.sink.ended_here:
            self.excused.update(self.last_of_connection.pop(connection, []))
        self.sink.ended_here.clear()

    # Judgement

    def settle(self, label: str = "the end", silence: float = DRAIN_SILENCE_SECONDS, hasten: bool = False,
               empties: bool = True) -> None:
        """Nothing is sent any more: all that was promised must arrive, and (`empties`) the spool be empty after it."""
        last_arrival = time.monotonic()
        while True:
            if self.read():
                last_arrival = time.monotonic()
            queued = self.gateway.queued()
            if queued == 0 and not self.due or time.monotonic() - last_arrival > silence:
                break
            if hasten:
                self.gateway.hasten()
            time.sleep(0.1)
        if empties:
            try:
                wait_until("empty mail directories", lambda: not self.leftovers(), LEFTOVER_SECONDS)
            except TimeoutError:
                left = self.leftovers()
                self.problem(f"{label}: {len(left)} files left in mail directories, such as {left[:3]}")
        time.sleep(0.1)
        self.after_cut()
        if queued:
            self.problem(f"{label}: {queued} messages still queued")
        for test_id, recipient in self.due:
            self.problem(f"lost at {label}: {test_id} for {recipient}")
        self.counts["lost"] += len(self.due)
        self._judge_arrivals(label)
        self._forget()

    def leftovers(self) -> list[str]:
        left = self.gateway.leftovers() if isinstance(self.gateway, Postern) else []
        return [name for name in left if not (self.unlinks_fail and name.endswith(".state"))]

    def _judge_arrivals(self, label: str) -> None:
        for (test_id, recipient), all_taken in self.arrivals.items():
            entry = self.entries.get(test_id)
            if entry is not None and recipient == entry.notice:
                if len(all_taken) > 1 and not self.killed:
                    self.problem(f"{label}: {len(all_taken)} notices for {test_id}")
                continue
            if entry is None or recipient not in entry.recipients:
                self.problem(f"{label}: {test_id} for {recipient} was never sent")
                self.counts["changed"] += 1
                continue
            if any(taken.sha256 != entry.sha256 for taken in all_taken):
                self.problem(f"changed at {label}: {test_id} for {recipient}")
                self.counts["changed"] += 1
            if not entry.promised:
                self.counts["refused yet arrived" if entry.refused else "arrived, 250 not read"] += 1
                if entry.refused and not self.killed:
                    self.problem(f"{label}: {test_id} for {recipient} was refused and arrived")
            if len(all_taken) > 1:
                repeated = len(all_taken) - 1
                self.counts["duplicates"] += repeated
                allowed = max(self.excused[taken.queue_id, domain_of(recipient)] for taken in all_taken)
                if repeated > allowed:
                    self.counts["without reason"] += repeated - allowed
                    self.problem(f"duplicate without reason at {label}: {test_id} for {recipient}, "
                                 f"{len(all_taken)} times, {allowed} of them excused")

    def _forget(self) -> None:
        for record in (self.due, self.arrivals, self.files, self.excused, self.last_of_connection, self.entries):
            record.clear()
        self.killed = False

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def report(self) -> str:
        return (f"promised {self.counts['promised']}, arrived {self.counts['arrived']}, lost {self.counts['lost']}, "
                f"changed {self.counts['changed']}, duplicates {self.counts['duplicates']} of "
                f"{self.counts['open at kills']} open at kills (without reason: {self.counts['without reason']}), "
                f"arrived though the 250 was not read {self.counts['arrived, 250 not read']}, though refused "
                f"{self.counts['refused yet arrived']}; refusals {self.flood.refusals() if self.flood else '-'}")


def shown(problems: list[str]) -> list[str]:
    """The first of each kind: all of them would say no more."""
    kinds: Counter[str] = Counter()
    lines = []
    for text in problems:
        kind = text.split(":")[0]
        kinds[kind] += 1
        if kinds[kind] <= SHOWN:
            lines.append(text)
    return lines + [f"… {count - SHOWN} more: {kind}" for kind, count in kinds.items() if count > SHOWN]
