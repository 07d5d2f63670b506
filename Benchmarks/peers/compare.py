"""Postern against Postfix, Exim and OpenSMTPD: the same generator, the same file system, one after the other.

    accept   smtp-source ──▶ server, queued          primary down; messages/s and CPU per message
    relay    smtp-source ──▶ server ──▶ smtp-sink    until the sink has counted the last one

    compare.py [--runs 3] [--messages 20000] [--servers postfix,exim,opensmtpd,postern] [--io epoll|uring] [--json]

Every measurement has a new ext4 with a journal in a loop-mounted image for the server's spool and log. The runs are
interleaved. CPU is that of all the server's processes, from the generator's start to one second after its end. Each
peer is tuned as a good administrator would; durability is each one's default (OpenSMTPD does not sync on accept).
Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "Tests/Conformance"))
import peers  # noqa: E402
from harness import (Service, Skip, commit, end_services, exit_cleanly_on_signals,  # noqa: E402
                     free_port, run, scratch_folder, wait_until)
from posternctl import Postern  # noqa: E402

DOMAIN = "d0.test"
IMAGE_BYTES = 6 << 30
SETTLE_SECONDS = 1.0

WARM_UP = 20
"""Messages and sessions before the measurement: processes forked, tables read."""

COUNTED_SHARE = 0.95
"""The rate is taken when this much has been answered: with OpenSMTPD's backlog of 5, some of the 100 connections wait
seconds for their SYN to be sent again, while the others have done all the work."""

ACCEPT_TIMES = 5.0
"""Postern accepts at least this many times what the better of Postfix and Exim does."""
CPU_TIMES = 8.0
"""The cheaper of Postfix and Exim uses at least this many times the CPU per message."""
OPENSMTPD_TIMES = 2.0
RELAY_TIMES = 5.0


# Where the spool lies, and how its CPU is counted

class Image:
    """A new ext4 with a journal, loop-mounted, for one measurement."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "image"
        self.mount = folder / "mount"
        self.mount.mkdir(exist_ok=True)

    def __enter__(self) -> Path:
        with self.file.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        # Everything written now, so that no lazy initialisation runs into the measurement.
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-N", "400000",
            self.file)
        run("mount", "-o", "loop", self.file, self.mount)
        (self.mount / "server").mkdir(mode=0o755)
        return self.mount / "server"

    def __exit__(self, *_: object) -> None:
        def unmounted() -> bool:
            return subprocess.run(["umount", self.mount], stderr=subprocess.DEVNULL).returncode == 0

        try:
            wait_until("umount", unmounted, 10, every=0.2)
        except TimeoutError:
            run("umount", "--lazy", self.mount)
        self.file.unlink()


class CpuMeter:
    """CPU time of a server's processes: by a control group if one can be made, else from /proc."""

    def __init__(self) -> None:
        self.group: Path | None = None
        self.read: Callable[[int], float] = self.from_proc
        for root, usage in ((Path("/sys/fs/cgroup/cpuacct"), self.from_version_1),
                            (Path("/sys/fs/cgroup"), self.from_version_2),
                            (Path("/sys/fs/cgroup/unified"), self.from_version_2)):
            group = root / f"postern-compare-{os.getpid()}"
            try:
                if not (root / "cgroup.procs").exists():
                    continue
                group.mkdir()
            except OSError:
                continue
            if (group / ("cpuacct.usage" if usage == self.from_version_1 else "cpu.stat")).exists():
                self.group, self.read = group, usage
                return
            group.rmdir()

    @property
    def source(self) -> str:
        return f"control group {self.group}" if self.group else "/proc"

    def from_version_1(self, _: int) -> float:
        assert self.group is not None
        return int((self.group / "cpuacct.usage").read_text()) / 1e9

    def from_version_2(self, _: int) -> float:
        assert self.group is not None
        return int((self.group / "cpu.stat").read_text().split()[1]) / 1e6

    @staticmethod
    def from_proc(pid: int) -> float:
        """Seconds of a process, its living descendants, and all the children they have waited for."""
        ticks, left = 0, [pid]
        while left:
            one = left.pop()
            try:
                fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
                for task in Path(f"/proc/{one}/task").iterdir():
                    left += [int(child) for child in (task / "children").read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
            ticks += sum(int(value) for value in fields[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        if self.group is not None:
            group = self.group
            wait_until("the control group to be empty", lambda: not (group / "cgroup.procs").read_text(), 10)
            group.rmdir()


# The peers as a good administrator runs them

class TunedPostfix(peers.Postfix):
    processes = 200
    hold = True

    def settings(self, etc: Path, uid: int, gid: int) -> dict[str, str]:
        route, = self.routes
        (etc / "relay").write_text(f"{DOMAIN} OK\n")
        common = super().settings(etc, uid, gid)
        del common["transport_maps"]
        return common | {
            "relay_domains": f"texthash:{etc}/relay", "relay_transport": f"relay:[127.0.0.1]:{route.port}",
            "mynetworks": "", "initial_destination_concurrency": "20", "relay_destination_concurrency_limit": "50",
            "smtp_connection_cache_destinations": f"[127.0.0.1]:{route.port}", "smtpd_tls_security_level": "none",
            "minimal_backoff_time": "300s", "queue_run_delay": "300s",
        } | ({"smtpd_sender_restrictions": "static:HOLD"} if self.hold else {})

    def master_services(self) -> str:
        services = super().master_services().replace("inet n - n - - smtpd", "inet n - n - 1200 smtpd")
        return re.sub(r"^(smtp|relay) unix - - n - - ", r"\1 unix - - n - 100 ", services, flags=re.MULTILINE)


class RelayingPostfix(TunedPostfix):
    hold = False


class TunedExim(peers.Exim):
    extra_main = "remote_max_parallel = 8\n"

    def command(self) -> list[str]:
        return ["/usr/sbin/exim4", "-bdf", "-odq"]


class TunedOpenSMTPD(peers.OpenSMTPD):
    extra_main = "smtp limit max-mails 1000000\n"

    def start(self, cgroup: Path | None = None) -> "TunedOpenSMTPD":
        super().start(cgroup)
        self.inside("/usr/sbin/smtpctl", "pause", "mta")
        return self


def last_count(counter: Path) -> int:
    """The newest count in what smtp-source or smtp-sink have written."""
    counts = re.findall(rb"(?:^|mesg=|\r)(\d+)(?=\r)", counter.read_bytes()[-4096:]) if counter.exists() else []
    return int(counts[-1]) if counts else 0


@dataclass
class Figures:
    """One server's measurements, one entry per run."""

    accept_per_second: list[float] = field(default_factory=list)
    accept_cpu_us: list[float] = field(default_factory=list)
    relay_per_second: list[float] = field(default_factory=list)
    relay_cpu_us: list[float] = field(default_factory=list)


class Comparison:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = scratch_folder("compare")
        self.postfix = peers.Postfix.install()
        self.meter = CpuMeter()
        self.figures: dict[str, Figures] = {}
        self.skipped: dict[str, str] = {}
        self.described = False

    def tool(self, name: str) -> list[str]:
        """smtp-source and smtp-sink from the unpacked Postfix."""
        return ["env", f"LD_LIBRARY_PATH={self.postfix}/usr/lib/postfix", str(self.postfix / "usr/sbin" / name)]

    def generate(self, port: int, messages: int, sessions: int) -> float:
        """Sends the messages to the end; returns messages per second over the first `COUNTED_SHARE` of them."""
        counter = self.folder / "source.counter"
        counter.unlink(missing_ok=True)
        began = time.monotonic()
        source = Service("smtp-source", [
            *self.tool("smtp-source"), "-c", "-d", "-s", str(sessions), "-m", str(messages), "-l",
            str(self.arguments.size), "-f", "from@sender.test", "-t", f"user@{DOMAIN}", f"127.0.0.1:{port}"], counter)
        counted = int(messages * COUNTED_SHARE)
        wait_until("the generator", lambda: not source.running() or last_count(counter) >= counted, 900, every=0.01)
        seconds = time.monotonic() - began
        if source.process.wait(300) != 0:
            raise RuntimeError(f"smtp-source ended with {source.process.returncode}: {source.tail()[-500:]}")
        source.kill()
        return counted / seconds

    def start(self, name: str, folder: Path, primary: int, relay: bool) -> tuple[int, int]:
        """Starts a server with its spool in `folder`; returns its port and its process."""
        if name == "postern":
            gateway = Postern(folder, io=self.arguments.io, cgroup=self.meter.group)
            gateway.start()
            if not self.described:
                self.say(gateway.description())
                self.described = True
            gateway.create(DOMAIN, f"127.0.0.1:{primary}", forward__tls="none", forward__concurrency="50")
            assert gateway.service is not None
            return gateway.port, gateway.service.pid
        kind = {"postfix": RelayingPostfix if relay else TunedPostfix, "exim": TunedExim,
                "opensmtpd": TunedOpenSMTPD}[name]
        server = kind(routes=[peers.Route(".test", primary, False)], folder=folder)
        server.start(cgroup=self.meter.group)
        assert server.service is not None
        return server.port, server.service.pid

    def accept(self, name: str) -> None:
        messages = self.arguments.messages
        with Image(self.folder) as folder:
            try:
                port, pid = self.start(name, folder, free_port(), relay=False)
                self.generate(port, WARM_UP, WARM_UP)
                cpu = self.meter.read(pid)
                rate = self.generate(port, messages, self.arguments.sessions)
                time.sleep(SETTLE_SECONDS)
                cpu = self.meter.read(pid) - cpu
            finally:
                end_services()
        figures = self.figures[name]
        figures.accept_per_second.append(rate)
        figures.accept_cpu_us.append(cpu / messages * 1e6)
        self.say(f"accept {name:10} {rate:8.0f} messages/s {cpu / messages * 1e6:8.1f} µs CPU each")

    def relay(self, name: str) -> None:
        messages = self.arguments.relay_messages
        sink_port = free_port()
        counter = self.folder / "sink.counter"
        counter.unlink(missing_ok=True)
        sink = Service("smtp-sink", [*self.tool("smtp-sink"), "-u", "nobody", "-c", f"127.0.0.1:{sink_port}", "1000"],
                       counter)

        with Image(self.folder) as folder:
            try:
                port, pid = self.start(name, folder, sink_port, relay=True)
                self.generate(port, WARM_UP, WARM_UP)
                wait_until("the first messages at the sink", lambda: last_count(counter) >= WARM_UP, 60)
                cpu, began = self.meter.read(pid), time.monotonic()
                self.generate(port, messages, self.arguments.sessions)
                wait_until("the last message at the sink", lambda: last_count(counter) >= messages + WARM_UP, 300,
                           every=0.005)
                seconds = time.monotonic() - began
                time.sleep(SETTLE_SECONDS)
                cpu = self.meter.read(pid) - cpu
            finally:
                end_services()
        figures = self.figures[name]
        figures.relay_per_second.append(messages / seconds)
        figures.relay_cpu_us.append(cpu / messages * 1e6)
        self.say(f"relay  {name:10} {messages / seconds:8.0f} messages/s {cpu / messages * 1e6:8.1f} µs CPU each")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr if self.arguments.json else sys.stdout, flush=True)

    def execute(self) -> None:
        names = self.arguments.servers.split(",")
        self.figures = {name: Figures() for name in names}
        for number in range(1, self.arguments.runs + 1):
            self.say(f"run {number} of {self.arguments.runs}")
            for name in names:
                if name in self.skipped:
                    continue
                try:
                    if "accept" in self.arguments.parts:
                        self.accept(name)
                    if "relay" in self.arguments.parts and name in ("postfix", "postern"):
                        self.relay(name)
                except Skip as reason:
                    self.skipped[name] = str(reason)
                    self.say(f"skipped {name}: {reason}")

    def ratios(self) -> list[tuple[str, float, float]]:
        """What is compared, by how much, and what is asked for."""

        def middle(name: str, key: str) -> float | None:
            values = getattr(self.figures.get(name, Figures()), key)
            return statistics.median(values) if values else None

        found: list[tuple[str, float, float]] = []
        ours = middle("postern", "accept_per_second")
        rates = [rate for rate in (middle(name, "accept_per_second") for name in ("postfix", "exim")) if rate]
        costs = [cost for cost in (middle(name, "accept_cpu_us") for name in ("postfix", "exim")) if cost]
        our_cost = middle("postern", "accept_cpu_us")
        if ours and our_cost and rates and costs:
            found.append(("accepted per second, to the better of Postfix and Exim", ours / max(rates), ACCEPT_TIMES))
            found.append(("CPU per message of the cheaper of Postfix and Exim, to ours", min(costs) / our_cost,
                          CPU_TIMES))
        opensmtpd = middle("opensmtpd", "accept_per_second")
        if ours and opensmtpd:
            found.append(("accepted per second, to OpenSMTPD (not durable)", ours / opensmtpd, OPENSMTPD_TIMES))
        relayed, peer = middle("postern", "relay_per_second"), middle("postfix", "relay_per_second")
        if relayed and peer:
            found.append(("relayed per second, to Postfix", relayed / peer, RELAY_TIMES))
        return found


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} [{min(values):.0f} to {max(values):.0f}]" if values else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description="Postern against Postfix, Exim and OpenSMTPD")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--relay-messages", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--size", type=int, default=10_240, help="bytes of content")
    parser.add_argument("--servers", default="postfix,exim,opensmtpd,postern")
    parser.add_argument("--parts", default="accept,relay")
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        print("comparing needs root and mkfs.ext4, for the image that the spools lie on")
        return 1
    try:
        comparison = Comparison(arguments)
    except Skip as reason:
        print(f"no generator: {reason}")
        return 1
    comparison.say(f"compare: commit {commit()}, {os.cpu_count()} cores, kernel {os.uname().release}, "
                   f"{arguments.sessions} sessions, {arguments.size} bytes, io {arguments.io}, "
                   f"CPU from {comparison.meter.source}")
    try:
        comparison.execute()
    finally:
        comparison.meter.close()
    ratios = comparison.ratios()
    well = all(ratio >= asked for _, ratio, asked in ratios)
    if arguments.json:
        print(json.dumps({"commit": commit(), "sessions": arguments.sessions, "size": arguments.size,
                          "servers": {name: vars(figures) for name, figures in comparison.figures.items()},
                          "ratios": [{"what": what, "ratio": ratio, "asked": asked} for what, ratio, asked in ratios],
                          "skipped": comparison.skipped}, indent=2))
        return 0 if well else 1
    print(f"\n{'median [min to max]':12}{'accept/s':>24}{'µs CPU each':>24}{'relay/s':>24}{'µs CPU each':>24}")
    for name, figures in comparison.figures.items():
        print(f"{name:19}{spread(figures.accept_per_second):>17}{spread(figures.accept_cpu_us):>24}"
              f"{spread(figures.relay_per_second):>24}{spread(figures.relay_cpu_us):>24}")
    print()
    for what, ratio, asked in ratios:
        print(f"{'ok    ' if ratio >= asked else 'FAILED'} {ratio:6.2f} times (asked: {asked:g}): {what}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
