"""Runs the examples of docs/admin.md as they stand, against a real server: each must succeed."""

from __future__ import annotations

import re
import subprocess
import sys

from adminctl import Site, exit_cleanly_on_signals
from harness import ROOT, scratch_folder


def main() -> int:
    exit_cleanly_on_signals()
    text = (ROOT / "docs/admin.md").read_text()
    found = re.search(r"<!-- examples:.*?-->\n```sh\n(.*?)```\n<!-- end -->", text, re.S)
    if not found:
        print("FAILED  docs/admin.md has no examples")
        return 1
    with Site() as site:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", found.group(1)], cwd=scratch_folder("examples"), text=True,
            capture_output=True, timeout=120, env={
                "PATH": "/usr/bin:/bin", "TOKEN": site.tokens["write"], "URL": f"http://127.0.0.1:{site.port}/api/v1"})
    if done.returncode != 0 or '"field":"forward.port"' not in done.stdout or "event: status" not in done.stdout:
        print(f"FAILED  exit {done.returncode}: {done.stderr.strip()}\n{done.stdout[-2000:]}")
        return 1
    print("passed  the examples of docs/admin.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
