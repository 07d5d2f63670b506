"""A file that a kill cut off in the middle of its write was never promised: it goes, whatever the start after did.

    message ──▶ gateway, kill -9, file cut short ──▶ a start that is killed before it has listed ──▶ a start

Passed: the file is dropped (`unpromised`), with and without the start in between; nothing is set aside as damaged.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Conformance"))
from calls import send  # noqa: E402
from failing import EVER, Failing  # noqa: E402
from harness import body_of_lines, exit_cleanly_on_signals, header_section, wait_until  # noqa: E402
from posternctl import Postern  # noqa: E402


def left_after(start_between: bool) -> list[str]:
    """What lies in the mail directory at the end."""
    with Postern() as gateway:
        failing = Failing(gateway)
        gateway.start()
        gateway.create("a.test", "127.0.0.1:1", hold="true")
        content = header_section("cut", "from@sender.test", "u@a.test") + body_of_lines(5000, "cut")
        reply = send(gateway.port, "from@sender.test", ("u@a.test",), content)
        assert reply.startswith("250"), reply
        gateway.kill()
        file, = (gateway.data / "stores/a.test").glob("*.eml")
        os.truncate(file, 3000)
        if start_between:
            failing.arm("list", errno.EIO, 1, EVER)
            gateway.start()
            gateway.kill()
            failing.disarm()
        gateway.start()
        gateway.command("gateway", "set", "a.test", "hold=false")
        try:
            wait_until("the end of the file", lambda: not file.exists(), 10)
        except TimeoutError:
            pass
        time.sleep(0.2)
        return gateway.leftovers()


def main() -> int:
    problems = []
    for start_between in (False, True):
        left = left_after(start_between)
        print(f"{'with' if start_between else 'without'} a start in between: {left or 'nothing'} left")
        problems += left
    print("FAILED" if problems else "passed")
    return 1 if problems else 0


if __name__ == "__main__":
    exit_cleanly_on_signals()
    sys.exit(main())
