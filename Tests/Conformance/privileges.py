#!/usr/bin/env python3
"""T-G7: started as root with `user`, the server opens its ports and gives everything else up.

  root: lock, ports below 1024 ──▶ `user` ──▶ every thread without root's ids and capabilities; mail is taken and stored

The defence is `Serve.changeUser`. Skipped when not root. Loopback only.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import smtplib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

USER = "nobody"
PORT = 1023
PROGRAM = os.environ.get("POSTERN_BIN", str(Path(__file__).resolve().parents[2] / ".build/release/postern"))


def wait_for_greeting() -> None:
    for _ in range(50):
        try:
            smtplib.SMTP("127.0.0.1", PORT, timeout=5).quit()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("no greeting within 5 s")


def faults(process: int, data: Path) -> list[str]:
    entry = pwd.getpwnam(USER)
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line)
        for key, wanted in (("Uid", entry.pw_uid), ("Gid", entry.pw_gid)):
            if set(status[key].split()) != {str(wanted)}:
                found.append(f"thread {status['Name'].strip()}: {key} {status[key].strip()}, not {wanted}")
        if "0" in status["Groups"].split():
            found.append(f"thread {status['Name'].strip()}: still in group 0")
        for key in ("CapEff", "CapPrm"):
            if int(status[key], 16):
                found.append(f"thread {status['Name'].strip()}: {key} {status[key].strip()}")
    for path in [data, *data.rglob("*")]:
        if path.lstat().st_uid != entry.pw_uid:
            found.append(f"{path.relative_to(data.parent)} does not belong to {USER}")
    return found


def main() -> int:
    if os.geteuid() != 0:
        print("skipped: needs root")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="postern-privileges-"))
    folder.chmod(0o755)
    configuration = folder / "postern.yaml"
    configuration.write_text(json.dumps({
        "hostname": "mx.gateway.test", "data": "data", "user": USER, "log": {"file": str(folder / "log")},
        "listen": {"smtp": [f"127.0.0.1:{PORT}"]}}))
    server = subprocess.Popen([PROGRAM, "serve", "--config", str(configuration)])
    try:
        wait_for_greeting()
        subprocess.run([PROGRAM, "gateway", "create", "demo.test", "--server", "127.0.0.1:1", "--config",
                        str(configuration)], check=True, stdout=subprocess.DEVNULL)
        with smtplib.SMTP("127.0.0.1", PORT) as client:
            client.sendmail("a@sender.test", ["b@demo.test"], "Subject: x\r\n\r\nx\r\n")
        found = faults(server.pid, folder / "data")
    finally:
        server.terminate()
        server.wait(70)
        shutil.rmtree(folder)
    print("\n".join(found) or f"all threads and files belong to {USER}, without capabilities; mail was taken on port {PORT}")
    print("FAILED" if found else "passed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
