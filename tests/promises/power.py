"""A power cut, worked out from a trace of system calls: only what was synced is sure to be on the disk."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

SECTOR_BYTES = 512
Mode = Literal["none", "all", "some"]


class Event(NamedTuple):
    """One thing a process did: write, truncate, create, delete, sync_begin, sync_end, said."""

    kind: str
    path: str
    at: int = 0
    data: bytes = b""


def traced(code: str, folder: Path, *arguments: str) -> list[Event]:
    """Run Python source, with ``folder`` as its first argument, under strace; what it did there, in order.

    What it writes to its standard output becomes "said" events.
    """
    if shutil.which("strace") is None:
        pytest.skip("POWER CUT NOT TESTED: strace is not installed")
    trace = folder.parent / f"{folder.name}.trace"
    calls = "openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink,unlinkat"
    strace = ["strace", "-f", "-y", "-xx", "-s", "100000", "-e", f"trace={calls}", "-o", str(trace)]
    python = [sys.executable, "-c", code, str(folder), *arguments]
    done = subprocess.run([*strace, *python], capture_output=True, text=True)
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("POWER CUT NOT TESTED: tracing is not allowed here")
    assert done.returncode == 0, done.stderr
    return list(_events(trace, folder))


_CALL = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?:\((.*)| resumed>(.*))$")
_FD = re.compile(r"(-?\d+)<([^>]*)>")


def _events(trace: Path, folder: Path) -> Iterator[Event]:
    begun: dict[str, str] = {}
    number = 0
    syncs: dict[str, int] = {}
    with trace.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            found = _CALL.match(line.rstrip("\n"))
            if found is None:
                continue
            thread, call, first, rest = found.groups()
            if first is not None and first.endswith("<unfinished ...>"):
                begun[thread] = first.removesuffix("<unfinished ...>")
                if call in ("fsync", "fdatasync"):
                    number += 1
                    syncs[thread] = number
                    yield Event("sync_begin", _path(begun[thread]), number)
                continue
            whole = first if first is not None else begun.pop(thread, "") + rest
            whole = re.sub(r"\) += (-?\d+)", r") = \1", whole)  # padded where another thread came between
            if ") = -1" in whole or ") = " not in whole:
                continue
            path = _path(whole)
            inside = path.startswith(str(folder))
            if call in ("fsync", "fdatasync"):
                if thread not in syncs:
                    number += 1
                    yield Event("sync_begin", path, number)
                yield Event("sync_end", path, syncs.pop(thread, number))
            elif call == "openat" and "O_CREAT" in whole:
                created = _unhex(whole.split('"')[1]).decode()
                if created.startswith(str(folder)):
                    yield Event("create", created)
            elif call in ("unlink", "unlinkat"):
                yield Event("delete", _unhex(whole.split('"')[1]).decode())
            elif call == "ftruncate" and inside:
                yield Event("truncate", path, int(whole.rsplit(") = ", 1)[0].rsplit(", ", 1)[1]))
            elif call == "pwrite64" and inside:
                _, text, after = whole.split('"')
                yield Event("write", path, int(after.rsplit(") = ", 1)[0].rsplit(", ", 1)[1]), _unhex(text))
            elif call == "write" and whole.startswith("1<"):
                yield Event("said", "", 0, _unhex(whole.split('"')[1]))


def _path(arguments: str) -> str:
    found = _FD.match(arguments)
    if found is None:
        return ""
    return _unhex(found.group(2)).decode(errors="replace") if "\\x" in found.group(2) else found.group(2)


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass
class _File:
    sure: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)
    named: bool = False
    """Whether its name is sure to be in its folder."""
    deleted: bool = False
    """Whether it was deleted, which is not sure yet."""
    syncing: dict[int, int] = field(default_factory=dict)


class Disk:
    """What a disk holds while events happen to it."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def take(self, event: Event) -> None:
        """One event more."""
        if event.kind == "create":
            if event.path not in self._files or self._files[event.path].deleted:
                self._files[event.path] = _File()
            return
        if event.kind == "delete":
            if event.path in self._files:
                self._files[event.path].deleted = True
            return
        if event.kind in ("sync_begin", "sync_end") and event.path not in self._files:
            if event.kind == "sync_end":  # a folder: what was made and deleted in it is sure
                for path in [path for path in self._files if str(Path(path).parent) == event.path]:
                    self._files[path].named = True
                    if self._files[path].deleted:
                        del self._files[path]
            return
        file = self._files.get(event.path)
        if file is None:
            return
        if event.kind == "sync_begin":
            file.syncing[event.at] = len(file.pending)
        elif event.kind == "sync_end":
            count = file.syncing.pop(event.at)
            for done in file.pending[:count]:
                _apply(file.sure, done)
            del file.pending[:count]
            file.syncing = {number: max(0, left - count) for number, left in file.syncing.items()}
        else:
            file.pending.append(event)

    def after_a_cut(self, folder: Path, mode: Mode, chance: random.Random) -> None:
        """Write into ``folder`` what may be there when the power goes now.

        Of what was not synced "none" is there, or "all", or "some": any set of its sectors.
        """
        for path, file in self._files.items():
            if path.endswith(("-shm", ".ballast", ".lock")):
                continue
            if not file.named and (mode == "none" or (mode == "some" and chance.random() < 0.5)):
                continue
            if file.deleted and (mode == "all" or (mode == "some" and chance.random() < 0.5)):
                continue
            content = bytearray(file.sure)
            for event in file.pending if mode != "none" else []:
                if mode == "all" or (event.kind == "truncate" and chance.random() < 0.5):
                    _apply(content, event)
                elif event.kind == "write":
                    for start in range(0, len(event.data), SECTOR_BYTES):
                        if chance.random() < 0.5:
                            part = event.data[start : start + SECTOR_BYTES]
                            _apply(content, Event("write", path, event.at + start, part))
            (folder / Path(path).name).write_bytes(content)
            (folder / Path(path).name).chmod(0o600)


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.at :]
        content.extend(bytes(event.at - len(content)))
        return
    content.extend(bytes(max(0, event.at - len(content))))
    content[event.at : event.at + len(event.data)] = event.data
