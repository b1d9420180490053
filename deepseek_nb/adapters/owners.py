"""Who holds a lease, and whether that process can still be alive: told by boot, namespace, pid and start."""

from __future__ import annotations

import os
import sys
import uuid
from functools import cache
from pathlib import Path

__all__ = ["boot_name", "owner_may_live", "owner_name", "retire_owner"]

_retired: set[str] = set()
"""Names given in this process whose bearers ended before the process did."""


def boot_name() -> str:
    """Names this machine since it was started; "-" where that cannot be told."""
    return _boot()


def owner_name(mark: str | None = None) -> str:
    """A name for this process as the holder of leases: boot, process namespace, pid, start and ``mark``.

    The same ``mark`` gives the same name in the same process; None is a new random one.
    """
    pid = os.getpid()
    return f"{_boot()}|{_namespace()}|{pid}|{_started(pid)}|{mark or uuid.uuid4().hex[:12]}"


def owner_may_live(owner: str) -> bool:
    """False if the bearer of that :func:`owner_name` is surely gone: retired, another boot, or its pid ended.

    True where it cannot be told (another container, another kind of name): then its lease decides.
    """
    if owner in _retired:
        return False
    parts = owner.split("|")
    if len(parts) != 5 or not parts[2].isdigit():
        return True
    boot, namespace, pid, started, _ = parts
    if boot != _boot():
        return False
    if namespace != _namespace() or sys.platform == "win32":
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    if _state(int(pid)) == "Z":
        return False  # killed, and not yet waited for by its parent
    return not started or _started(int(pid)) in ("", started)


def retire_owner(owner: str) -> None:
    """Know, in this process, that nobody goes by that name any more; what it still holds is free to take."""
    _retired.add(owner)


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "-"


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "-"


def _started(pid: int) -> str:
    """When the process started, in clock ticks since boot: tells a pid from its next bearer ("": unknown)."""
    return _stat(pid, 19)


def _state(pid: int) -> str:
    """One letter, as R or Z ("": unknown)."""
    return _stat(pid, 0)


def _stat(pid: int, place: int) -> str:
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return line.rpartition(")")[2].split()[place]
