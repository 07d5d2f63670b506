"""Every fault that a process can meet from outside, against one gateway under two-way load, with a ledger of each 250.

    crash.py [--rounds 50] [--io epoll|uring] [--only PART,…] [--short] [--seed S] [--gateway postern|broken-…] [--keep]

    kill         kill -9 at random moments, also of a start, also with mail piled up
    pause        SIGSTOP for 0.1 to 8 s, beyond the peers' patience too; some are killed while they are stopped
    full         no byte left on the spool's disk: 452 4.3.1, mail leaves at 100 %, and comes again when there is room
    inodes       the same without inodes
    descriptors  few from the start, none while running: no spinning, control and delivery go on, it recovers
    calls        the first, second, third … file call of each kind fails
    mix          all of them in an order drawn from the seed

Passed: 0 lost, 0 changed, no reply other than 4xx to what was not taken, no duplicate but of a hand-over that a kill or
a peer's end interrupted, nothing set aside, nothing left over. `POSTERN_BINARY` names another build; one with a
sanitizer fails the run with any report.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from account import shown  # noqa: E402
from calls import calls_part  # noqa: E402
from disk import journalled  # noqa: E402
from faults import descriptors, full, mixed, pauses  # noqa: E402
from harness import Skip, clean_up, commit, exit_cleanly_on_signals, keep_folders  # noqa: E402
from ledger import kill_rounds  # noqa: E402
from posternctl import Gateway  # noqa: E402
from standins import gateway as gateway_named  # noqa: E402

SHORT_ROUNDS = 5
CALLS_IN_SHORT = 7


@dataclass(frozen=True)
class Part:
    run: Callable[[Gateway, int, int, bool], list[str]]
    """Gateway, seed, rounds, whether it should be short."""
    disk: str | None = None
    """Size of the ext4 that it runs on."""
    needs_root: bool = False


PARTS = {
    "kill": Part(lambda gateway, seed, rounds, short: kill_rounds(gateway, rounds, seed), "4G"),
    "pause": Part(lambda gateway, seed, rounds, short: pauses(gateway, seed, max(3, rounds // 10),
                                                              3.5 if short else 8.0), "4G"),
    "full": Part(lambda gateway, seed, rounds, short: full(gateway, seed, inodes=False), needs_root=True),
    "inodes": Part(lambda gateway, seed, rounds, short: full(gateway, seed, inodes=True), needs_root=True),
    "descriptors": Part(lambda gateway, seed, rounds, short: descriptors(gateway, seed), "4G"),
    "calls": Part(lambda gateway, seed, rounds, short: calls_part(gateway, seed, CALLS_IN_SHORT if short else None),
                  "1G"),
    "mix": Part(lambda gateway, seed, rounds, short: mixed(gateway, seed, max(4, rounds // 2)), "300M"),
}


def run_part(name: str, part: Part, seed: int, arguments: argparse.Namespace) -> list[str]:
    """One part on a gateway of its own; an exception is its failure, not that of the others."""
    gateway = gateway_named(arguments.gateway, io=arguments.io)
    if part.needs_root and os.geteuid() != 0:
        print("  skipped: needs root for its mounts")
        return []
    if part.disk:
        print(f"  {journalled(gateway.data, part.disk)}")
    try:
        # Not Python's hash: the same for the same seed in every process.
        return part.run(gateway, random.Random(f"{seed}.{name}").randrange(1 << 32), arguments.rounds, arguments.short)
    except (TimeoutError, RuntimeError, OSError) as failure:
        return [f"{type(failure).__name__}: {failure}", *gateway.complaints()]


def main() -> int:
    parser = argparse.ArgumentParser(description="faults from outside, under load, with a ledger")
    parser.add_argument("--rounds", type=int, default=50, help="of kill -9; the other parts follow from it")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--short", action="store_true", help="what CI runs: a minute")
    parser.add_argument("--gateway", default="postern")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - PARTS.keys():
        parser.error(f"no part named {', '.join(sorted(unknown))}: {', '.join(PARTS)}")
    if arguments.short:
        arguments.rounds = SHORT_ROUNDS
    exit_cleanly_on_signals()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    again = f"crash.py --gateway {arguments.gateway} --io {arguments.io} --seed {seed}"
    again += " --short" if arguments.short else f" --rounds {arguments.rounds}"
    print(f"crash: commit {commit()}, {time.strftime('%F %T')}\nagain: {again} --only {arguments.only}", flush=True)
    started, failed = time.monotonic(), []
    for name in names:
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        try:
            problems = run_part(name, PARTS[name], seed, arguments)
        except Skip as reason:
            print(reason)
            return 1
        for problem in shown(problems):
            print(f"FAILED {problem}")
        if problems:
            failed.append(name)
            print(f"again: {again} --only {name}")
        if arguments.keep:
            keep_folders()
        clean_up()
        print(f"== {name}: {'FAILED' if problems else 'passed'} in {time.monotonic() - began:.0f} s", flush=True)
    verdict = f"FAILED: {', '.join(failed)}" if failed else "passed"
    print(f"\n{verdict} in {time.monotonic() - started:.0f} s, seed {seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
