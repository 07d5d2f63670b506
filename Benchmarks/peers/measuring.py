"""Where a measured server's spool lies, and how its CPU is counted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from harness import run, wait_until

IMAGE_BYTES = 6 << 30


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
