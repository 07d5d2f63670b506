"""Postern against Postfix, Exim and OpenSMTPD: the same generators, the same file system, one after the other.

    source   smtp-source ──▶ server, queued              primary down; connections kept open, no pipelining
    accept   postern-bench accept ──▶ server, queued     the same conversation
    pipe     postern-bench accept --pipelining           MAIL, RCPT and DATA in one packet
    single   postern-bench accept --one-per-session      a connection for each message
    relay    postern-bench relay ──▶ server ──▶ back     until its own primary has the last one, all bytes compared
    floor    postern-bench floor                         the conversation of `pipe` without a mail server

    compare.py [--runs 5] [--quick] [--servers …] [--parts …] [--io epoll|uring] [--json] [--write RESULTS.md]

Every measurement has a new ext4 with a journal in a loop-mounted image for the server's spool and log. The runs are interleaved.
CPU is that of all the server's processes by their control group, from the generator's start to one second after its end.
`postern-1` is Postern with one reactor, pinned to one core, the generator on another. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "Tests/Conformance"))
import peers  # noqa: E402
import tuned  # noqa: E402
from harness import (ROOT, Service, Skip, commit, end_services, exit_cleanly_on_signals,  # noqa: E402
                     free_port, scratch_folder, wait_until)
from measuring import CpuMeter, Image  # noqa: E402
from posternctl import Postern  # noqa: E402
from results import Results  # noqa: E402

BENCH = Path(os.environ.get("POSTERN_BENCH") or ROOT / ".build/release/postern-bench")
SETTLE_SECONDS = 1.0

WARM_UP = 200
"""Messages before the measurement: processes forked, tables read, all connections open."""

COUNTED_SHARE = 0.95
"""Of smtp-source, which opens its connections while it measures: the rate is taken when this much has been answered. With
OpenSMTPD's backlog of 5, some of them wait seconds for their SYN to be sent again, while the others have done all the work."""

QUICK_SECONDS = 170
"""Of `--quick`: no further run is begun that would end later, on a machine that is slow or busy."""

ACCEPTING = {"accept": [], "pipe": ["--pipelining"], "single": ["--one-per-session"]}
"""Parts by postern-bench, and what they add to its command."""

LEFT_OUT = {
    ("single", "exim"): "it answers QUIT 200 ms late",
    ("single", "opensmtpd"): "with its backlog of 5, connections made at once wait seconds, not for it",
    ("pipe", "opensmtpd"): "it does not offer PIPELINING",
    ("relay", "exim"): "tuned to queue only, it would be its queue runner's pace",
    ("relay", "opensmtpd"): "its MTA is paused, so that accepting is measured alone",
}


def last_count(counter: Path) -> int:
    """The newest count in what smtp-source has written."""
    counts = re.findall(rb"(?:^|mesg=|\r)(\d+)(?=\r)", counter.read_bytes()[-4096:]) if counter.exists() else []
    return int(counts[-1]) if counts else 0


class Comparison:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = scratch_folder("compare")
        self.postfix = peers.Postfix.install() if "source" in arguments.parts else None
        self.meter = CpuMeter()
        self.results = Results(arguments)
        self.skipped: dict[str, str] = {}
        self.described = ""

    # The servers

    def start(self, name: str, folder: Path, primary: int, relay: bool) -> tuple[int, int]:
        """Starts a server with its spool in `folder`; returns its port and its process."""
        if name.startswith("postern"):
            gateway = Postern(folder, io=self.arguments.io, cgroup=self.meter.group,
                              reactors=1 if name == "postern-1" else None)
            if name == "postern-1":
                gateway.prefix = ["taskset", "--cpu-list", "0"]
            gateway.start()
            if not self.described:
                self.described = gateway.description()
                self.say(self.described)
            gateway.create(tuned.DOMAIN, f"127.0.0.1:{primary}", forward__tls="none", forward__concurrency="50")
            assert gateway.service is not None
            return gateway.port, gateway.service.pid
        kind = {"postfix": tuned.RelayingPostfix if relay else tuned.TunedPostfix, "exim": tuned.TunedExim,
                "opensmtpd": tuned.TunedOpenSMTPD}[name]
        server = kind(routes=[peers.Route(".test", primary, False)], folder=folder)
        server.start(cgroup=self.meter.group)
        assert server.service is not None
        return server.port, server.service.pid

    # The generators

    def source(self, port: int, messages: int) -> dict[str, Any]:
        """smtp-source, from the unpacked Postfix; messages per second over the first `COUNTED_SHARE` of them."""
        counter = self.folder / "source.counter"
        counter.unlink(missing_ok=True)
        began = time.monotonic()
        source = Service("smtp-source", [
            "env", f"LD_LIBRARY_PATH={self.postfix}/usr/lib/postfix", f"{self.postfix}/usr/sbin/smtp-source",
            "-c", "-d", "-s", str(min(self.arguments.sessions, messages)), "-m", str(messages), "-l",
            str(self.arguments.size), "-f", "from@sender.test", "-t", f"user@{tuned.DOMAIN}", f"127.0.0.1:{port}"], counter)
        counted = int(messages * COUNTED_SHARE)
        wait_until("smtp-source", lambda: not source.running() or last_count(counter) >= counted, 900, every=0.01)
        seconds = time.monotonic() - began
        if source.process.wait(300) != 0:
            raise RuntimeError(f"smtp-source ended with {source.process.returncode}: {source.tail()[-500:]}")
        source.kill()
        return {"perSecond": counted / seconds}

    def bench(self, *words: str, pinned: bool = False) -> dict[str, Any]:
        """postern-bench; its JSON."""
        command = [*(["taskset", "--cpu-list", "1"] if pinned else []), str(BENCH), *words, "--json"]
        self.results.commands.setdefault(words[0], " ".join(["postern-bench", *words]))
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit {result.returncode}: {result.stderr.strip()[-500:]}")
        return json.loads(result.stdout)

    def load(self, messages: int) -> list[str]:
        return ["--messages", str(messages), "--connections", str(self.arguments.sessions), "--size",
                str(self.arguments.size), "--domains", tuned.DOMAIN, "--warmup", str(WARM_UP), "--timeout", "120"]

    # The measurements

    def measure(self, part: str, name: str) -> None:
        arguments = self.arguments
        messages = {"relay": arguments.relay_messages, "single": arguments.single_messages}.get(part, arguments.messages)
        pinned = name == "postern-1"
        with Image(self.folder) as folder:
            try:
                sink = free_port()
                port, pid = self.start(name, folder, sink, relay=part == "relay")
                target = ["--target", f"127.0.0.1:{port}", "--pid", str(pid)]
                if part == "source":
                    self.source(port, 20)
                cpu = self.meter.read(pid)
                if part == "source":
                    counted, figures = messages, self.source(port, messages)
                elif part == "relay":
                    counted = messages + WARM_UP
                    figures = self.bench("relay", *target, "--sink", f"127.0.0.1:{sink}", *self.load(messages), pinned=pinned)
                else:
                    counted = messages + WARM_UP
                    figures = self.bench("accept", *target, *self.load(messages), *ACCEPTING[part], pinned=pinned)
                time.sleep(SETTLE_SECONDS)
                figures["cpu"] = (self.meter.read(pid) - cpu) / counted * 1e6
            finally:
                end_services()
        self.results.add(part, name, figures)
        self.say(f"{part:7} {name:10} {figures['perSecond']:9.0f} messages/s {figures['cpu']:8.1f} µs CPU each")

    def floor(self) -> None:
        with Image(self.folder) as folder:
            figures = self.bench("floor", "--folder", str(folder), "--pipelining", "--probe", *self.load(self.arguments.messages))
        figures["cpu"] = figures["serverCpuUsPerMessage"]
        self.results.add("floor", "floor", figures)
        self.say(f"floor              {figures['perSecond']:9.0f} messages/s {figures['cpu']:8.1f} µs CPU each")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr if self.arguments.json else sys.stdout, flush=True)

    def execute(self) -> None:
        began = time.monotonic()
        for number in range(1, self.arguments.runs + 1):
            seconds = time.monotonic() - began
            if self.arguments.quick and number > 1 and seconds * number / (number - 1) > QUICK_SECONDS:
                self.say(f"run {number} is left out: those before took {seconds:.0f} s")
                self.arguments.runs = number - 1
                break
            self.say(f"run {number} of {self.arguments.runs}")
            for part in self.arguments.parts:
                if part == "floor":
                    self.floor()
                    continue
                for name in self.arguments.servers:
                    if name in self.skipped or (part, name) in LEFT_OUT:
                        continue
                    try:
                        self.measure(part, name)
                    except Skip as reason:
                        self.skipped[name] = str(reason)
                        self.say(f"skipped {name}: {reason}")
                    except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as failure:
                        # The other measurements are worth having; this one makes the comparison fail.
                        self.results.failures.append(f"run {number}, {part}, {name}: {failure}")
                        self.say(f"FAILED {self.results.failures[-1]}")


def arguments_of_command() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Postern against Postfix, Exim and OpenSMTPD")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--single-messages", type=int, default=10_000)
    parser.add_argument("--relay-messages", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--size", type=int, default=10_240, help="bytes of each body")
    parser.add_argument("--servers", default="postfix,exim,opensmtpd,postern,postern-1")
    parser.add_argument("--parts", default="source,accept,pipe,single,relay,floor")
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    parser.add_argument("--quick", action="store_true", help="only the ratios that matter, in less than 3 minutes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="put the tables into this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.runs, arguments.messages, arguments.relay_messages = 2, 4_000, 2_000
        arguments.servers, arguments.parts = "postfix,exim,postern", "accept,relay"
    arguments.servers = arguments.servers.split(",")
    arguments.parts = arguments.parts.split(",")
    return arguments


def main() -> int:
    arguments = arguments_of_command()
    exit_cleanly_on_signals()
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        print("comparing needs root and mkfs.ext4, for the image that the spools lie on", file=sys.stderr)
        return 1
    if not BENCH.exists():
        print(f"{BENCH} is not built: `make build`", file=sys.stderr)
        return 1
    if "postern-1" in arguments.servers and len(os.sched_getaffinity(0) & {0, 1}) < 2:
        print("left out postern-1: it needs the processors 0 and 1", file=sys.stderr)
        arguments.servers.remove("postern-1")
    try:
        comparison = Comparison(arguments)
    except Skip as reason:
        print(f"no smtp-source: {reason}", file=sys.stderr)
        return 1
    comparison.say(f"compare: commit {commit()}, {arguments.sessions} sessions, {arguments.size} bytes, io {arguments.io}, "
                   f"CPU from {comparison.meter.source}")
    try:
        comparison.execute()
    finally:
        comparison.meter.close()
    results = comparison.results
    if comparison.skipped and not results.ratios():
        results.failures.append(f"nothing is left to compare with: {'; '.join(comparison.skipped.values())}")
    if arguments.json:
        print(json.dumps(results.document(comparison.skipped), indent=2))
    else:
        print(results.text())
    if arguments.write:
        arguments.write.write_text(results.markdown(
            comparison.described, comparison.meter.source,
            comparison.skipped | {f"{name} in `{part}`": reason for (part, name), reason in LEFT_OUT.items()}))
        comparison.say(f"written: {arguments.write}")
    return 0 if results.well() else 1


if __name__ == "__main__":
    sys.exit(main())
