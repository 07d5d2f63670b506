"""A gateway is deleted with much mail in it: the other domains' senders must not wait for that.

    source ──▶ gateway ──▶ sink    100 a second, while `gateway delete full.test --mail drop` takes 5,000 away

    delete.py [--messages 5000] [--io epoll|uring]

Passed: no 250 of another domain waits longer than a second, nor much longer than before the deletion.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Soak"))
from load import NOTHING, SENT, Ledger, LoadSink, Source, metrics, percentile  # noqa: E402
from harness import Skip, commit, exit_cleanly_on_signals, scratch_folder, wait_until  # noqa: E402
from posternctl import Postern  # noqa: E402

RATE = 100
WAIT_MAX_MS = 1_000


def handed_in(ledger: Ledger) -> int:
    """Messages begun so far."""
    return sum(state != NOTHING for state in ledger.states())


def main() -> int:
    parser = argparse.ArgumentParser(description="a gateway deleted with its mail, beside known good senders")
    parser.add_argument("--messages", type=int, default=5_000)
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    folder = scratch_folder("delete")
    fill, sent, taken = (Ledger(folder / name, count) for name, count in (
        ("fill", arguments.messages), ("sent", 20_000), ("taken", 20_000)))
    sink = LoadSink(folder, taken)
    try:
        gateway = Postern(io=arguments.io)
    except Skip as reason:
        print(reason)
        return 1
    with gateway:
        gateway.start()
        print(f"delete: commit {commit()}, {gateway.description()}, {arguments.messages} messages")
        gateway.create("full.test", f"127.0.0.1:{sink.port}", hold="true")
        gateway.create("b0.test", f"127.0.0.1:{sink.port}", forward__tls="none")
        Source(folder, gateway.port, fill, "fill", domain="full.test", domains=1).process.wait(120)
        wait_until("the held mail", lambda: metrics(gateway)["postern_held"] == arguments.messages, 30)
        Source(folder, gateway.port, sent, "bystanders", domain="b%d.test", domains=1, rate=RATE, connections=8)
        time.sleep(3)
        before = handed_in(sent)
        began = time.monotonic()
        try:
            gateway.command("gateway", "delete", "full.test", "--mail", "drop")
        except subprocess.TimeoutExpired as late:
            print(late)
        deleted = time.monotonic() - began
        time.sleep(1)
        after = handed_in(sent)
        # Those that wait now count too: with all the time that they will have waited.
        wait_until("the last of their 250s", lambda: SENT not in sent.states(0, after), 120)
        quiet, busy = sent.values(100, before - 100), sent.values(before - 8, after - before + 8)
    for name, times in (("before", quiet), ("deleting", busy)):
        print(f"{name:9} {len(times):5} messages, p50/p99/slowest {percentile(times, .5) / 1e3:.1f}/"
              f"{percentile(times, .99) / 1e3:.1f}/{max(times) / 1e3:.0f} ms")
    good = max(busy) / 1e3 <= max(WAIT_MAX_MS, 3 * max(quiet) / 1e3)
    print(f"deleted after {deleted:.2f} s; {'passed' if good else f'FAILED: a sender waited {max(busy) / 1e3:.0f} ms'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
