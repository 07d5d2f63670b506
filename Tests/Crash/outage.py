"""Many primaries down, much mail queued, the gateway killed meanwhile: when they return, all of it must come at once.

    flood ──▶ gateway (300 domains) ──✗ sink     kill -9, start again, then the sink comes up

    outage.py [--gateways 300] [--messages 30000] [--down 15] [--seed S] [--io epoll|uring] [--gateway …] [--keep]

Passed: every promised message arrives unchanged, the first of them within 3 s of the primary's return.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from flood import Flood  # noqa: E402
from harness import (Skip, commit, exit_cleanly_on_signals, keep_folders, scratch_folder,  # noqa: E402
                     wait_until)
from sink import Sink, Taken  # noqa: E402
from standins import gateway as gateway_named  # noqa: E402

FIRST_WITHIN_SECONDS = 3.0
DRAIN_SILENCE_SECONDS = 60


def main() -> int:
    parser = argparse.ArgumentParser(description="an outage of all primaries with a kill -9 in it")
    parser.add_argument("--gateways", type=int, default=300)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--down", type=float, default=15, help="seconds from the restart to the primary's return")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    parser.add_argument("--gateway", default="postern")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    started = time.monotonic()
    print(f"outage: {arguments.gateway}, io {arguments.io}, commit {commit()}, seed {seed}, "
          f"{arguments.gateways} gateways, {arguments.messages} messages", flush=True)

    folder = scratch_folder("outage")
    sink = Sink(folder)
    try:
        gateway = gateway_named(arguments.gateway, io=arguments.io)
    except Skip as reason:
        print(reason)
        return 1
    arrived: dict[tuple[str, str], Taken] = {}
    first_of_domain: dict[str, float] = {}
    duplicates, problems = 0, []
    with gateway:
        gateway.start()
        print(gateway.description(), flush=True)
        gateway.create_many([f"d{number}.test" for number in range(arguments.gateways)], f"127.0.0.1:{sink.port}",
                            forward__tls="none")
        print(f"gateways created after {time.monotonic() - started:.1f} s", flush=True)
        flooded = time.monotonic()
        flood = Flood(folder, gateway.port, "--connections", "50", "--messages", str(arguments.messages), "--seed",
                      str(seed), "--domains", f"d%d.test:{arguments.gateways}", "--size", "500:10240",
                      "--large-share", "0")
        flood.service.process.wait(600)
        entries = flood.entries()
        expected = {(test_id, recipient): entry.sha256 for test_id, entry in entries.items() if entry.promised
                    for recipient in entry.recipients}
        promised = sum(entry.promised for entry in entries.values())
        print(f"{promised} messages promised ({len(expected)} with their second recipients) in "
              f"{time.monotonic() - flooded:.1f} s, kill -9", flush=True)
        gateway.kill()
        killed = time.monotonic()
        gateway.start()
        print(f"back after {time.monotonic() - killed:.2f} s", flush=True)
        time.sleep(arguments.down)
        queued = gateway.queued()
        returned = time.monotonic()
        sink.start()
        print(f"{queued} queued; the primary is back {returned - killed:.1f} s after the kill", flush=True)
        last_arrival = time.monotonic()
        while time.monotonic() - last_arrival < DRAIN_SILENCE_SECONDS:
            for taken in sink.taken():
                last_arrival = time.monotonic()
                for recipient in taken.recipients:
                    duplicates += (taken.test_id, recipient) in arrived
                    arrived.setdefault((taken.test_id, recipient), taken)
                    first_of_domain.setdefault(recipient.rpartition("@")[2], taken.at)
            if arrived.keys() >= expected.keys():
                break
            time.sleep(0.05)
        try:
            wait_until("an empty queue", lambda: gateway.queued() == 0, 10, every=0.5)
        except TimeoutError:
            problems.append(f"{gateway.queued()} messages still queued")

    if promised < arguments.messages:
        problems.append(f"only {promised} of {arguments.messages} were promised: {flood.refusals()}")
    lost = expected.keys() - arrived.keys()
    changed = [key for key in expected.keys() & arrived.keys() if arrived[key].sha256 != expected[key]]
    times = [taken.at - returned for taken in arrived.values()]
    if times:
        print(f"\nfirst after {min(times):.2f} s, last after {max(times):.2f} s "
              f"({len(times) / max(max(times), 0.001):.0f} recipients/s); "
              f"first of the slowest gateway after {max(first_of_domain.values()) - returned:.2f} s")
    print(f"promised {len(expected)}, arrived {len(arrived)}, lost {len(lost)}, changed {len(changed)}, "
          f"duplicates {duplicates}")
    problems += [f"lost: {key}" for key in sorted(lost)[:5]] + [f"changed: {key}" for key in sorted(changed)[:5]]
    if not times or min(times) > FIRST_WITHIN_SECONDS:
        problems.append(f"the first message did not come within {FIRST_WITHIN_SECONDS:g} s of the primary's return")
    if duplicates:
        problems.append(f"{duplicates} arrived twice, though no hand-over was open at the kill")
    for problem in problems:
        print(f"FAILED {problem}")
    if arguments.keep:
        keep_folders()
    print(f"{'FAILED' if problems else 'passed'} in {time.monotonic() - started:.0f} s, seed {seed}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
