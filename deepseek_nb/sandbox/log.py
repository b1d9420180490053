"""What the server saw: one record for each request, the proof that nothing was paid twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TextIO, overload

__all__ = ["RequestLog", "RequestRecord"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request that has ended, as the server saw it. Times are server seconds since the start."""

    index: int
    """Order of arrival, from 0."""
    arrived_s: float
    ended_s: float
    path: str
    status: int
    """HTTP status; 0 if no header was sent."""
    model: str | None = None
    """The model asked for."""
    user_id: str | None = None
    request_hash: str | None = None
    """Hash of the body without ``user_id``, ``stream`` and ``stream_options``."""
    prompt_hash: str | None = None
    """Hash of the messages only."""
    question_hash: str | None = None
    """Hash of the last user message; of its values where it is JSON. The same for a row of a job whatever
    stands before it and in whichever order its fields are sent."""
    fault: str | None = None
    complete: bool = False
    """A whole answer, good or bad, was handed to the socket, and the client had not gone away."""
    usable: bool = False
    """Complete, with a text, a good finish reason, and not spoiled by a fault."""
    aborted: bool = False
    """The client hung up first."""
    bytes_sent: int = 0
    prompt_tokens: int = 0
    cache_hit_tokens: int = 0
    completion_tokens: int = 0
    """Tokens produced, reasoning included."""
    cost_usd: float = 0.0
    """What was charged to the balance."""
    stream: bool = False
    replayed: str | None = None
    """The name of the recording the answer is from; None for a simulated one."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values, one line of the log file."""
        return {name: getattr(self, name) for name in FIELDS}


FIELDS = tuple(field.name for field in fields(RequestRecord))


class RequestLog:
    """All ended requests in the order they ended. Safe to read from any thread, at any time.

    With ``path``, each record is also written to that file as one line of JSON, and flushed, as
    its request ends. ``RequestLog.read(path)`` loads such a file.
    """

    def __init__(self, path: str | Path | None = None, *, lock: threading.RLock | None = None) -> None:
        self._records: list[RequestRecord] = []
        self._lock = threading.RLock() if lock is None else lock
        self._file: TextIO | None = None
        if path is not None:
            self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115  open until close()

    def append(self, record: RequestRecord) -> None:
        """Add a record, and write its line to the file."""
        with self._lock:
            self._records.append(record)
            if self._file is not None:
                self._file.write(json.dumps(record.to_json(), separators=(",", ":")) + "\n")
                self._file.flush()

    def close(self) -> None:
        """Close the file. The records stay."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def snapshot(self) -> list[RequestRecord]:
        """A list of the records so far."""
        with self._lock:
            return self._records.copy()

    def clear(self) -> None:
        """Forget the records so far (the file keeps its lines)."""
        with self._lock:
            self._records.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._records)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self.snapshot())

    @overload
    def __getitem__(self, index: int) -> RequestRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[RequestRecord]: ...
    def __getitem__(self, index: int | slice) -> RequestRecord | list[RequestRecord]:
        with self._lock:
            return self._records[index]

    def __repr__(self) -> str:
        return f"<RequestLog: {len(self)} requests, {len(self.complete)} complete, {self.cost_usd:.6f} USD>"

    @property
    def chats(self) -> list[RequestRecord]:
        """The well-formed requests for an answer, refused ones included (no lists, no balance, no 400)."""
        return [record for record in self.snapshot() if record.request_hash is not None]

    @property
    def complete(self) -> list[RequestRecord]:
        """The records whose whole answer was handed over."""
        return [record for record in self.snapshot() if record.complete]

    def answered_twice(self, by: Literal["request_hash", "question_hash"] = "request_hash") -> dict[str, int]:
        """Requests that got a usable answer more than once: request hash (or question hash) and how often.

        >>> RequestLog().answered_twice()
        {}
        """
        counts = Counter(
            getattr(record, by)
            for record in self.snapshot()
            if record.usable and getattr(record, by) is not None
        )
        return {named: count for named, count in counts.items() if count > 1}

    def faults(self) -> Counter[str]:
        """How often each fault was played."""
        return Counter(record.fault for record in self.snapshot() if record.fault is not None)

    @property
    def cost_usd(self) -> float:
        """All that was charged."""
        return sum(record.cost_usd for record in self.snapshot())

    @classmethod
    def read(cls, path: str | Path) -> RequestLog:
        """Load a log file. A last line that a killed server left half-written is passed over."""
        log = cls()
        for line in Path(path).read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                log.append(RequestRecord(**json.loads(line)))
        return log
