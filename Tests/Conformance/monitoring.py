"""What docs/monitoring asks of a server: each metric is one that it declares, and Prometheus understands each expression.

    monitoring.py

Prometheus' own promtool (from Debian) checks the alert rules, plays their tests, and reads every expression of the
Grafana board; the metrics are those that a running server tells.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import ROOT, Skip, exit_cleanly_on_signals, scratch_folder
from peers import unpack_debian
from posternctl import Postern

FOLDER = ROOT / "docs/monitoring"
METRIC = re.compile(r"\bpostern_[a-z_]+")


def expressions(value: Any) -> Iterator[str]:
    """Of a board: every `expr`, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"]
        for inner in value.values():
            yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


def declared() -> set[str]:
    """The names in # TYPE lines of a running server, with the labels of their samples."""
    with Postern() as gateway:
        gateway.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}


def promtool(program: Path, *arguments: str | Path) -> list[str]:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, cwd=FOLDER)
    return [] if done.returncode == 0 else [f"promtool {arguments[0]} {arguments[1]}: {done.stdout}{done.stderr}"]


def main() -> int:
    exit_cleanly_on_signals()
    board = json.loads((FOLDER / "grafana.json").read_text())
    asked = sorted(set(expressions(board)))
    used = set(METRIC.findall("\n".join(asked) + (FOLDER / "alerts.yml").read_text()
                              + json.dumps(board["templating"])))
    failures: list[str] = []
    try:
        known = declared()
        program = unpack_debian("prometheus", "prometheus") / "usr/bin/promtool"
    except Skip as reason:
        print(f"skipped: {reason}")
        return 0
    failures += [f"docs/monitoring asks for {name}, which no server tells" for name in sorted(used - known)]
    if len(asked) < 20 or len(used) < 20:
        failures.append(f"only {len(asked)} expressions and {len(used)} metrics were found: this looks at the wrong place")
    rules = scratch_folder("board") / "board.yml"
    plain = [text.replace("$instance", ".*").replace("$__rate_interval", "5m") for text in asked]
    rules.write_text(json.dumps({"groups": [{"name": "board", "rules": [
        {"record": f"board:{number}", "expr": text} for number, text in enumerate(plain)]}]}))
    failures += promtool(program, "check", "rules", rules)
    failures += promtool(program, "check", "rules", "alerts.yml")
    failures += promtool(program, "test", "rules", "alerts-test.yml")
    print(f"{len(asked)} expressions of the board, {len(used)} metrics, all alerts as their tests want them")
    print("\n".join(failures) or "passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
