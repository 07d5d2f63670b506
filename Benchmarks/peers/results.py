"""What a comparison found: medians, spread, ratios, as text, JSON and a page for the repository."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from harness import commit

ACCEPT_TIMES = 5.0
"""Postern accepts at least this many times what the better of Postfix and Exim does."""
CPU_TIMES = 8.0
"""The cheaper of Postfix and Exim uses at least this many times the CPU per message."""
OPENSMTPD_TIMES = 2.0
RELAY_TIMES = 5.0

TITLES = {
    "source": "Accept, smtp-source, connections kept open",
    "accept": "Accept, postern-bench, connections kept open",
    "pipe": "Accept, postern-bench, pipelining",
    "single": "Accept, postern-bench, one message per session",
    "relay": "Relay to a primary, all bytes compared",
    "floor": "The floor: the bytes and round trips of pipelining, and the syncs, without a mail server",
}


def machine() -> list[tuple[str, str]]:
    def line(path: str, key: str) -> str:
        for text in Path(path).read_text().splitlines():
            if text.startswith(key):
                return text.partition(":")[2].strip()
        return "unknown"

    memory = int(line("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20)
    return [("processor", f"{line('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores"),
            ("memory", f"{memory:.0f} GiB"), ("kernel", f"{platform.system()} {platform.release()}"),
            ("load when it began", Path("/proc/loadavg").read_text().split()[0])]


class Results:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.figures: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.commands: dict[str, str] = {}
        self.failures: list[str] = []
        self.machine = machine()

    def add(self, part: str, name: str, figures: dict[str, Any]) -> None:
        self.figures.setdefault(part, {}).setdefault(name, []).append(figures)

    def values(self, part: str, name: str, key: str) -> list[float]:
        return [run[key] for run in self.figures.get(part, {}).get(name, []) if run.get(key) is not None]

    def median(self, part: str, name: str, key: str) -> float | None:
        values = self.values(part, name, key)
        return statistics.median(values) if values else None

    def ratios(self) -> list[tuple[str, float, float]]:
        """What is compared, by how much, and what is asked for."""
        found: list[tuple[str, float, float]] = []
        for part in ("source", "accept", "pipe"):
            ours, our_cost = self.median(part, "postern", "perSecond"), self.median(part, "postern", "cpu")
            peers = ("postfix", "exim")
            rates = [rate for rate in (self.median(part, name, "perSecond") for name in peers) if rate]
            costs = [cost for cost in (self.median(part, name, "cpu") for name in peers) if cost]
            # smtp-source is slower than Postern: with it the ratio of rates is the generator's.
            if ours and rates and part != "source":
                found.append((f"{part}: accepted per second, to the better of Postfix and Exim", ours / max(rates), ACCEPT_TIMES))
            if our_cost and costs:
                found.append((f"{part}: CPU per message of the cheaper of Postfix and Exim, to ours", min(costs) / our_cost,
                              CPU_TIMES))
            opensmtpd = self.median(part, "opensmtpd", "perSecond")
            if ours and opensmtpd and part != "source":
                found.append((f"{part}: accepted per second, to OpenSMTPD (not durable)", ours / opensmtpd, OPENSMTPD_TIMES))
        relayed, peer = self.median("relay", "postern", "perSecond"), self.median("relay", "postfix", "perSecond")
        if relayed and peer:
            found.append(("relay: per second, to Postfix", relayed / peer, RELAY_TIMES))
        return found

    def well(self) -> bool:
        return not self.failures and all(ratio >= asked for _, ratio, asked in self.ratios())

    def document(self, skipped: dict[str, str]) -> dict[str, Any]:
        return {"commit": commit(), "machine": dict(self.machine), "sessions": self.arguments.sessions,
                "size": self.arguments.size, "figures": self.figures, "skipped": skipped, "failures": self.failures,
                "ratios": [{"what": what, "ratio": ratio, "asked": asked} for what, ratio, asked in self.ratios()]}

    def spread(self, part: str, name: str, key: str, scale: float = 1, digits: int = 0) -> str:
        values = [value * scale for value in self.values(part, name, key)]
        if not values:
            return "-"
        return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f} to {max(values):.{digits}f}]"

    def rows(self, part: str) -> list[tuple[str, str, str, str, str]]:
        return [(name, self.spread(part, name, "perSecond"), self.spread(part, name, "cpu", digits=1),
                 self.spread(part, name, "p50us", 0.001, 2), self.spread(part, name, "p99us", 0.001, 2))
                for name in self.figures.get(part, {})]

    HEADINGS = ("server", "messages/s", "µs CPU each", "p50 ms", "p99 ms")

    def text(self) -> str:
        lines = []
        for part in self.figures:
            lines += ["", f"{TITLES[part]}; median [min to max]"]
            table = [self.HEADINGS, *self.rows(part)]
            widths = [max(len(row[column]) for row in table) for column in range(len(self.HEADINGS))]
            lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table]
        lines.append("")
        for what, ratio, asked in self.ratios():
            lines.append(f"{'ok    ' if ratio >= asked else 'FAILED'} {ratio:6.2f} times (asked: {asked:g}): {what}")
        lines += [f"FAILED {failure}" for failure in self.failures]
        return "\n".join(lines)

    def markdown(self, description: str, source: str, skipped: dict[str, str]) -> str:
        arguments = self.arguments
        lines = ["# Postern beside other mail servers", "",
                 f"{time.strftime('%Y-%m-%d')}, commit {commit()}. {arguments.runs} interleaved runs, medians [min to max]; "
                 f"{arguments.sessions} connections, bodies of {arguments.size} bytes. Every measurement had a new ext4 with a "
                 "journal in a loop-mounted image. Ratios matter; absolute figures move with the machine.", "",
                 "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in self.machine),
                 f"| Postern | {description} |", f"| CPU | {source}, to one second after the end |", "",
                 "OpenSMTPD does not sync on accept, so its figures are not durable ones. `postern-1` is one reactor pinned to one core, "
                 "the generator on another.", ""]
        for part in self.figures:
            lines += [f"## {TITLES[part]}", "", "| " + " | ".join(self.HEADINGS) + " |", "| --- | --- | --- | --- | --- |",
                      *("| " + " | ".join(row) + " |" for row in self.rows(part)), ""]
        ratios = self.ratios()
        if ratios:
            lines += ["## Ratios", "", "| what | times | asked |", "| --- | --- | --- |",
                      *(f"| {what} | {ratio:.2f} | {asked:g} |" for what, ratio, asked in ratios), ""]
        lines += [f"**Failed**: {failure}\n" for failure in self.failures]
        for name, reason in skipped.items():
            lines += [f"Left out: {name}: {reason}", ""]
        lines += ["## Commands", "", "```", f"python3 {shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}",
                  *self.commands.values(), "```", ""]
        return "\n".join(lines)
