"""kill -9 under load, with a ledger outside: what was promised must arrive, whole, whatever happens to the process.

    flood ──▶ gateway ──▶ sink         twenty times: kill -9 at a random moment, start again on the same ports

    ledger.py [--rounds 20] [--seed S] [--io epoll|uring] [--gateway postern|postfix|broken-…] [--keep]

At each kill, and when all has drained: each 250 of the ledger has arrived or is in the spool (0 lost); its bytes are
the same (0 changed), also those of messages whose 250 was never read; a second arrival is of a hand-over that a kill
interrupted. One start in six is killed too, before it can serve, and in one round of six the sink is away for a while.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from account import Account, shown  # noqa: E402
from disk import journalled  # noqa: E402
from flood import Flood  # noqa: E402
from harness import (Skip, commit, exit_cleanly_on_signals, keep_folders, scratch_folder,  # noqa: E402
                     wait_until)
from posternctl import Gateway  # noqa: E402
from sink import Sink  # noqa: E402
from standins import gateway as gateway_named  # noqa: E402

DOMAINS = [f"d{number}.test" for number in range(20)]
ROUNDS_PER_SETTLE = 25
"""After so many rounds all is drained and judged: neither memory nor a fault's distance grows with the rounds."""

RESTART_MAX_SECONDS = 5.0


def kill_rounds(gateway: Gateway, rounds: int, seed: int, connections: int = 30,
                longest: float = 1.2) -> list[str]:
    """The rounds on a gateway that is not running yet; returns the problems."""
    moments = random.Random(seed)
    folder = scratch_folder("ledger")
    sink = Sink(folder).start()
    slowest = 0.0
    with gateway:
        gateway.start()
        print(gateway.description(), flush=True)
        gateway.create_many(DOMAINS, f"127.0.0.1:{sink.port}", forward__tls="none")
        flood = Flood(folder, gateway.port, "--connections", str(connections), "--seed", str(seed),
                      "--domains", f"d%d.test:{len(DOMAINS)}")
        account = Account(gateway, sink, flood)
        for number in range(1, rounds + 1):
            before = flood.promises()
            wait_until("load", lambda: flood.promises() > before, 30)
            if moments.random() < 1 / 6:
                # Mail piles up, and a kill meets it before, while or after it leaves.
                sink.stop()
                account.after_cut()
                time.sleep(moments.uniform(0.0, longest))
                sink.start()
            time.sleep(moments.uniform(0.0, longest))
            gateway.kill()
            waiting, still_open = account.after_kill(f"round {number}")
            if moments.random() < 1 / 6 and hasattr(gateway, "launch"):
                gateway.launch()
                time.sleep(moments.uniform(0.0, 0.3))
                gateway.kill()
                account.after_kill(f"the start of round {number}")
            killed = time.monotonic()
            gateway.start()
            slowest = max(slowest, time.monotonic() - killed)
            print(f"round {number:3}: {flood.promises() - before:6} promised, killed with {waiting} waiting, "
                  f"{still_open} of them handed over, back after {time.monotonic() - killed:.2f} s", flush=True)
            if number % ROUNDS_PER_SETTLE == 0 and number < rounds:
                flood.pause()
                account.settle(f"round {number}")
                flood.go_on()
            if account.problems:
                break
        flood.pause()
        account.settle()
        gateway.stop()
        complaints = gateway.complaints()
    print(f"{account.report()}\nslowest restart {slowest:.2f} s")
    problems = account.problems + complaints
    if slowest > RESTART_MAX_SECONDS:
        problems.append(f"a restart took {slowest:.1f} s")
    return problems


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
    started = time.monotonic()
    print(f"ledger: {arguments.gateway}, io {arguments.io}, commit {commit()}, seed {seed}, {arguments.rounds} rounds")
    print(f"again: ledger.py --gateway {arguments.gateway} --io {arguments.io} --rounds {arguments.rounds} "
          f"--seed {seed}", flush=True)
    try:
        gateway = gateway_named(arguments.gateway, io=arguments.io)
    except Skip as reason:
        print(reason)
        return 1
    print(journalled(gateway.data))
    problems = kill_rounds(gateway, arguments.rounds, seed, arguments.connections)
    for problem in shown(problems):
        print(f"FAILED {problem}")
    if arguments.keep:
        keep_folders()
    print(f"{'FAILED' if problems else 'passed'} in {time.monotonic() - started:.0f} s, seed {seed}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
