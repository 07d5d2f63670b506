"""kill -9 under load, with a ledger outside: what was promised must arrive, whole, whatever happens to the process.

    flood ──▶ gateway ──▶ sink         twenty times: kill -9 at a random moment, start again on the same ports

    ledger.py [--rounds 20] [--seed S] [--io epoll|uring] [--gateway postern|postfix|broken-…] [--keep]

Checked at the end, per message and recipient: each 250 of the ledger arrived (0 lost); its bytes are the same (0
changed), also those of messages whose 250 was never read; a second arrival is of a hand-over that a kill interrupted.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from flood import Flood  # noqa: E402
from harness import (Skip, clean_up, commit, exit_cleanly_on_signals, keep_folders, scratch_folder,  # noqa: E402
                     wait_until)
from sink import Sink, Taken  # noqa: E402
from standins import gateway as gateway_named  # noqa: E402

DOMAINS = [f"d{number}.test" for number in range(20)]

OPEN_PER_CONNECTION = 2 + 16
"""Hand-overs that a kill may repeat per connection it cuts: two open, and sixteen whose settle is not yet synced."""

SETTLING_SECONDS = 0.2
"""How long after the end of its connection a settle may still wait for its commit."""

RESTART_MAX_SECONDS = 5.0
DRAIN_SILENCE_SECONDS = 30


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 under load against a ledger of every 250")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    parser.add_argument("--gateway", default="postern")
    parser.add_argument("--connections", type=int, default=30)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    moments = random.Random(seed)
    started = time.monotonic()
    print(f"ledger: {arguments.gateway}, io {arguments.io}, commit {commit()}, seed {seed}, {arguments.rounds} rounds")
    print(f"again: ledger.py --gateway {arguments.gateway} --io {arguments.io} --rounds {arguments.rounds} "
          f"--seed {seed}", flush=True)

    folder = scratch_folder("ledger")
    sink = Sink(folder).start()
    try:
        gateway = gateway_named(arguments.gateway, io=arguments.io)
    except Skip as reason:
        print(reason)
        return 1
    arrivals: dict[tuple[str, str], list[Taken]] = defaultdict(list)

    def collect() -> int:
        count = 0
        for taken in sink.taken():
            count += 1
            for recipient in taken.recipients:
                arrivals[taken.test_id, recipient].append(taken)
        return count

    slowest_restart, problems, kills = 0.0, [], []
    with gateway:
        gateway.start()
        print(gateway.description(), flush=True)
        gateway.create_many(DOMAINS, f"127.0.0.1:{sink.port}", forward__tls="none")
        flood = Flood(folder, gateway.port, "--connections", str(arguments.connections), "--seed", str(seed),
                      "--domains", f"d%d.test:{len(DOMAINS)}")
        for round_number in range(1, arguments.rounds + 1):
            before = flood.promises()
            wait_until("load", lambda: flood.promises() > before, 20)
            time.sleep(moments.uniform(0.1, 2.5))
            promised = flood.promises()
            kills.append(time.monotonic())
            gateway.kill()
            collect()
            killed = time.monotonic()
            gateway.start()
            slowest_restart = max(slowest_restart, time.monotonic() - killed)
            print(f"round {round_number:2}: {promised - before:6} promised, killed with about "
                  f"{max(promised - len(arrivals), 0)} waiting, back after {time.monotonic() - killed:.2f} s",
                  flush=True)
        time.sleep(1)
        flood.pause()
        entries = flood.entries()
        expected = {(test_id, recipient) for test_id, entry in entries.items() if entry.promised
                    for recipient in entry.recipients}
        last_arrival = time.monotonic()
        while time.monotonic() - last_arrival < DRAIN_SILENCE_SECONDS:
            if collect():
                last_arrival = time.monotonic()
            elif arrivals.keys() >= expected and gateway.queued() == 0:
                break
            time.sleep(0.2)
        time.sleep(1)
        collect()
        left = gateway.queued()

    lost = expected - arrivals.keys()
    changed = {key for key, all_taken in arrivals.items() for taken in all_taken
               if key[0] not in entries or taken.sha256 != entries[key[0]].sha256
               or key[1] not in entries[key[0]].recipients}
    cut = sink.connections_cut(kills, SETTLING_SECONDS)
    last_of_connection: dict[int, list[str]] = defaultdict(list)
    for taken in sorted({taken for all_taken in arrivals.values() for taken in all_taken}, key=lambda one: one.at):
        last_of_connection[taken.connection].append(taken.test_id)
    open_at_kill = {test_id for connection in cut for test_id in last_of_connection[connection][-OPEN_PER_CONNECTION:]}
    repeated = {key: len(all_taken) - 1 for key, all_taken in arrivals.items() if len(all_taken) > 1}
    unexplained = {key for key in repeated if key[0] not in open_at_kill}
    promised = sum(entry.promised for entry in entries.values())
    unpromised = sum(not entries[test_id].promised for test_id in {key[0] for key in arrivals} if test_id in entries)

    print(f"\nmessages promised {promised}, recipients promised {len(expected)}, arrived {len(arrivals)}, "
          f"of them from messages whose 250 was not read {unpromised}, refused {flood.refusals() or 0}")
    print(f"lost {len(lost)}, changed {len(changed)}, duplicates {sum(repeated.values())} "
          f"(of hand-overs not open at a kill: {len(unexplained)}), still queued {left}")
    print(f"restarts {arguments.rounds}, slowest {slowest_restart:.2f} s; connections cut {len(cut)}")
    for what, keys in (("lost", lost), ("changed", changed), ("duplicate without reason", unexplained)):
        problems += [f"{what}: {test_id} for {recipient}" for test_id, recipient in sorted(keys)[:5]]
    if slowest_restart > RESTART_MAX_SECONDS:
        problems.append(f"a restart took {slowest_restart:.1f} s")
    if left:
        problems.append(f"{left} messages still queued")
    for problem in problems:
        print(f"FAILED {problem}")
    if arguments.keep:
        keep_folders()
    print(f"{'FAILED' if problems else 'passed'} in {time.monotonic() - started:.0f} s, seed {seed}")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        status = main()
    finally:
        clean_up()
    sys.exit(status)
