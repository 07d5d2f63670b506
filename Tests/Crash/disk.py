"""File systems for one test: a journalled one in a file, small ones that can be filled to the last byte or inode."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from harness import mount, run, scratch_folder


def journalled(folder: Path, size: str = "4G") -> str:
    """Mounts an ext4 of its own at `folder`; without the right to, the folder stays where it is. Says which."""
    if os.geteuid() != 0:
        return f"{folder}: on its own disk (an ext4 in a file needs root)"
    image = scratch_folder("image") / "ext4.img"
    try:
        with image.open("wb") as file:
            file.truncate(parse(size))
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1", image)
        mount(folder, "-o", "loop", image)
    except (RuntimeError, FileNotFoundError, subprocess.TimeoutExpired) as why:
        return f"{folder}: on its own disk ({str(why).strip().splitlines()[-1]})"
    (folder / "lost+found").rmdir()
    return f"{folder}: ext4 with a journal, {size}"


def small(folder: Path, size: str, inodes: int) -> None:
    """Mounts a tmpfs of this size at `folder`. Needs root."""
    mount(folder, "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "postern-test")


def parse(size: str) -> int:
    return int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]]


class Foreign:
    """Files of somebody else that take what is left of a file system, again and again while `fill` is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "foreign"

    def fill(self) -> None:
        """Takes all bytes."""
        self.folder.mkdir(exist_ok=True)
        block = bytes(1 << 20)
        with (self.folder / "bytes").open("ab", buffering=0) as file:
            for piece in (block, block[:4096], block[:1]):
                try:
                    while file.write(piece) == len(piece):
                        pass
                except OSError:
                    pass

    def take_inodes(self) -> None:
        """Takes all inodes."""
        self.folder.mkdir(exist_ok=True)
        number = len(os.listdir(self.folder))
        try:
            while True:
                (self.folder / f"inode-{number}").touch(exist_ok=False)
                number += 1
        except FileExistsError:
            pass
        except OSError:
            pass

    def leave(self) -> None:
        run("rm", "-rf", self.folder)
