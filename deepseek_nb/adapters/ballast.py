"""Disk space held back beside a database, given up where the disk is full so that a last commit fits."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

__all__ = ["BALLAST_BYTES", "Ballast"]

BALLAST_BYTES = 8 << 20
"""For each database: answers and jobs together hold back 16 MiB. 32 kB for each of 256 rows in flight."""

ROOM_TIMES = 10
"""The ballast is made only where so many times its size is free: it must not be what fills a small disk."""

LOOK_S = 5.0
"""How often to look whether it can be made again."""


class Ballast:
    """A file ``path`` of ``size_bytes`` with real blocks; 0: none. Called under the database's write lock.

    It is there while a database is open and written to, and costs 50 us to make. Nothing here raises:
    no ballast is a disk without a reserve, as any other.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._spent = False
        self._look_at = float("-inf")

    @property
    def spent(self) -> bool:
        """Whether it had to be given up, and the disk is still nearly full."""
        if self._spent and self._free_bytes() >= 2 * self.size_bytes:
            self._spent = False
            self._look_at = float("-inf")
        return self._spent

    def keep(self) -> None:
        """Make it, if it is not there and there is room. Looks every ``LOOK_S`` seconds."""
        now = time.monotonic()
        if not self.size_bytes or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        if self.path.exists() or self._free_bytes() < ROOM_TIMES * self.size_bytes:
            return
        with contextlib.suppress(OSError):
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle, 0, self.size_bytes)
                else:
                    os.write(handle, bytes(self.size_bytes))
            except OSError:
                self.drop()
            finally:
                os.close(handle)

    def give_up(self) -> bool:
        """Free the space for a commit that did not fit; whether there was any."""
        if not self.drop():
            return False
        self._spent = True
        return True

    def drop(self) -> bool:
        """Delete the file; whether it was there."""
        try:
            self.path.unlink()
        except OSError:
            return False
        self._look_at = float("-inf")
        return True

    def _free_bytes(self) -> int:
        try:
            disk = os.statvfs(self.path.parent)
        except (OSError, AttributeError):
            return 0
        return disk.f_bavail * disk.f_frsize
