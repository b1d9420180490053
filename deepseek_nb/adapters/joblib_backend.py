"""joblib's face of the answer store: ``joblib.Memory(backend="deepseek")``, JSON in SQLite, never pickle.

After :func:`register`, what joblib's users know works as they know it: ``memory.cache`` (async
functions too), ``ignore``, ``cache_validation_callback=expires_after(...)``, ``call_and_shelve``,
``check_call_in_cache``, ``reduce_size``, ``clear``. What differs from joblib's directory store, on purpose:

* an edited comment, docstring or decorator changes nothing, and edited code keeps its results too
  (they were paid): one :class:`SourceChanged` warning says so, ``function.clear()`` drops them;
* nothing of the arguments is kept, only the time and how long the call took;
* a result is on the disk (one fsync, about 0.4 ms) when the call returns;
* a value that JSON or Arrow cannot hold is refused with :class:`NotStorable`, which carries the value;
* a lambda or a ``functools.partial`` is refused: it has no name of its own to find its results again.

Importing this module imports joblib (about 170 ms).
"""

from __future__ import annotations

import ast
import base64
import contextlib
import datetime
import importlib
import importlib.util
import json
import math
import sqlite3
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import joblib
from joblib._store_backends import CacheItemInfo, StoreBackendBase, StoreBackendMixin

from deepseek_nb.adapters.database import Database, NotSaved, StoreDamaged
from deepseek_nb.adapters.settings import load_settings
from deepseek_nb.adapters.store import SCHEMA, VERSION, checksum, json_text, store_file
from deepseek_nb.core.errors import ConfigError

__all__ = ["BACKEND", "DeepSeekStoreBackend", "NotStorable", "SourceChanged", "memory", "register"]

BACKEND = "deepseek"
"""The name for ``joblib.Memory(backend=...)``."""

ACCESS_STEP_S = 60.0
"""The time of the last access is written again after so many seconds: a hit seldom costs a write."""

_STORABLE = (
    "None, bool, int, float, str, bytes, lists, tuples and dicts (text keys) of these, "
    "and with pyarrow installed a pandas DataFrame or Series or an Arrow table"
)


class NotStorable(TypeError):
    """This result or function cannot be kept. ``value``: the result, which was paid for."""

    value: Any = None


class SourceChanged(UserWarning):
    """The code of a cached function changed; its results were kept."""


def register() -> None:
    """Make ``joblib.Memory(backend="deepseek")`` known to joblib, in this process. May be called twice."""
    joblib.register_store_backend(BACKEND, DeepSeekStoreBackend)


def memory(location: str | Path | None = None, **options: Any) -> joblib.Memory:
    """A ``joblib.Memory`` on the answer store that prints nothing (joblib's own default prints every call).

    ``location``: a directory or file; None is the data directory of the settings. ``options`` go to
    ``joblib.Memory``. Raises ConfigError where the file cannot be used.

    Example::

        @memory().cache
        def summary(text: str) -> dict: ...     # the second call with the same text costs 0.2 ms
    """
    register()
    if location is None:
        location = load_settings().data_dir
    return joblib.Memory(str(location), backend=BACKEND, **{"verbose": 0, **options})


class DeepSeekStoreBackend(StoreBackendBase, StoreBackendMixin):  # type: ignore[misc]
    """One SQLite file as joblib's store. Made by joblib; safe for threads and processes; can be pickled."""

    location: str
    verbose: int

    # ---------------------------------------------------------------- opening

    def configure(
        self, location: str, verbose: int = 0, backend_options: Mapping[str, Any] | None = None
    ) -> None:
        """Open the store for ``location`` (to a text joblib appends "/joblib"). Options do not apply."""
        del backend_options  # compress and mmap_mode are for files
        path = Path(location)
        self.path = store_file(path.parent if path.name == "joblib" else path).absolute()
        self.location = str(self.path)
        self.verbose = verbose
        self._open()

    def _open(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._database = Database(self.path, SCHEMA, VERSION)

    def close(self) -> None:
        """Close the file. joblib never does; the end of the process does no harm."""
        self._database.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "location": self.location, "verbose": self.verbose}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    # ---------------------------------------------------------------- results

    def load_item(
        self, call_id: Sequence[str], verbose: int = 0, timestamp: float | None = None, metadata: Any = None
    ) -> Any:
        """The result of that call. Raises KeyError if it is not there (any more)."""
        del verbose, timestamp, metadata  # nothing is printed
        found = self._row(call_id)
        if found is None:
            raise KeyError(f"No stored result for this call in {self.path} (it may have been cleared).")
        text, accessed = found
        now = time.time()
        if not 0 <= now - accessed < ACCESS_STEP_S:
            update = "UPDATE joblib_items SET accessed=? WHERE func=? AND args=?"
            self._try_write(lambda c: c.execute(update, (now, *call_id)), durable=False)
        return _decoded(json.loads(text))

    def dump_item(self, call_id: Sequence[str], item: Any, verbose: int = 0) -> None:
        """Keep the result: on the disk at return. Raises NotStorable; warns NotSaved (disk full)."""
        del verbose
        try:
            text = json_text(_encoded(item))
        except (NotStorable, ValueError, RecursionError) as error:
            why = error if isinstance(error, NotStorable) else f"it is not plain data ({error})"
            refusal = NotStorable(f"The result of this call cannot be kept: {why}. It can be: {_STORABLE}.")
            refusal.value = item
            raise refusal from None
        func, args = call_id
        now = time.time()
        row = (func, args, text, checksum(f"{func}\n{args}", now, text), now, now, len(text.encode()))
        try:
            self._database.write(
                lambda c: c.execute(
                    "INSERT OR REPLACE INTO joblib_items (func, args, value, digest, created, accessed, "
                    "size) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
            )
        except ConfigError as error:
            warnings.warn(f"A result was not saved. {error}", NotSaved, stacklevel=2)

    def contains_item(self, call_id: Sequence[str]) -> bool:
        """Whether the result is there, undamaged."""
        return self._row(call_id) is not None

    def clear_item(self, call_id: Sequence[str]) -> None:
        """Drop one result."""
        func, args = call_id
        self._database.write(lambda c: c.execute(f"{_DELETE} WHERE func=? AND args=?", (func, args)))

    def get_metadata(self, call_id: Sequence[str]) -> dict[str, float]:
        """``time`` (when it was stored) and ``duration``, in seconds; 0 where unknown: expired."""
        func, args = call_id
        row = self._database.read(
            lambda c: c.execute(
                "SELECT created, duration FROM joblib_items WHERE func=? AND args=?", (func, args)
            ).fetchone()
        )
        created, duration = row or (0.0, 0.0)
        return {"time": _real(created), "duration": _real(duration)}

    def store_metadata(self, call_id: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Keep how long the call took; the arguments joblib hands over are dropped."""
        func, args = call_id
        update = "UPDATE joblib_items SET duration=? WHERE func=? AND args=?"
        duration = _real(metadata.get("duration"))
        self._try_write(lambda c: c.execute(update, (duration, func, args)), durable=False)

    def get_item_info(self, call_id: Sequence[str]) -> dict[str, str]:
        """Where it is."""
        del call_id
        return {"location": self.location}

    # ---------------------------------------------------------------- functions

    def store_cached_func_code(self, call_id: Sequence[str], func_code: str | None = None) -> None:
        """Note the function's code (a hash of it). Raises NotStorable for a lambda."""
        func = call_id[0]
        if "<lambda>" in func or "%3Clambda%3E" in func:
            raise NotStorable("A lambda has no name to keep its results under: use def.")
        if func_code is not None:
            self._note(func, _source_digest(func_code.partition("\n")[2]))

    def get_cached_func_code(self, call_id: Sequence[str]) -> str:
        """A text that joblib finds equal to the code the function has now, whatever it was."""
        return _CurrentCode(self._compare, call_id[0])

    def get_cached_func_info(self, call_id: Sequence[str]) -> dict[str, str]:
        """Where its results are."""
        del call_id
        return {"location": self.location}

    def contains_path(self, call_id: Sequence[str]) -> bool:
        """Whether any result of the function is there."""
        func = call_id[0]
        select = "SELECT 1 FROM joblib_items WHERE func=? LIMIT 1"
        return self._database.read(lambda c: c.execute(select, (func,)).fetchone()) is not None

    def clear_path(self, call_id: Sequence[str]) -> None:
        """Drop every result of a function: ``function.clear()``."""
        func = call_id[0]

        def drop(connection: sqlite3.Connection) -> None:
            connection.execute(f"{_DELETE} WHERE func=?", (func,))
            connection.execute("DELETE FROM joblib_functions WHERE func=?", (func,))

        self._database.write(drop)
        self._seen.clear()

    # ---------------------------------------------------------------- the whole store

    def clear(self) -> None:
        """Drop every result of every function for good (``memory.clear()``). Answers of the client stay."""

        def drop(connection: sqlite3.Connection) -> None:
            connection.execute(_DELETE)
            connection.execute("DELETE FROM joblib_functions")

        self._database.write(drop)
        self._seen.clear()
        self._database.scrub()

    def get_items(self) -> list[Any]:
        """Size and last access of every result, for ``reduce_size``."""
        rows = self._database.read(
            lambda c: c.execute("SELECT func, args, size, accessed FROM joblib_items").fetchall()
        )
        local = datetime.datetime.fromtimestamp  # joblib compares local times without a zone
        return [
            CacheItemInfo((func, args), int(_real(size)), local(_real(accessed)))
            for func, args, size, accessed in rows
        ]

    def enforce_store_limits(
        self,
        bytes_limit: int | str | None,
        items_limit: int | None = None,
        age_limit: datetime.timedelta | None = None,
    ) -> None:
        """Drop the results used longest ago until the limits hold, in one transaction."""
        items: Iterable[Any] = self._get_items_to_delete(bytes_limit, items_limit, age_limit)
        calls = [item.path for item in items]
        if calls:
            self._database.write(lambda c: c.executemany(f"{_DELETE} WHERE func=? AND args=?", calls))

    def clear_location(self, location: Any) -> None:
        """Drop what ``location`` names: a call, or (the file) everything."""
        if isinstance(location, tuple):
            self.clear_item(location)
        else:
            self.clear()

    def create_location(self, location: Any) -> None:
        """Nothing to create: there is one file."""

    def _open_item(self, f: Any, mode: str) -> Any:
        raise NotImplementedError("results are rows, not files")

    def _item_exists(self, location: Any) -> bool:
        raise NotImplementedError("results are rows, not files")

    def _move_item(self, src: Any, dst: Any) -> None:
        raise NotImplementedError("results are rows, not files")

    # ---------------------------------------------------------------- inside

    def _row(self, call_id: Sequence[str]) -> tuple[str, float] | None:
        func, args = call_id
        row = self._database.read(
            lambda c: c.execute(
                "SELECT value, digest, created, accessed FROM joblib_items WHERE func=? AND args=?",
                (func, args),
            ).fetchone()
        )
        if row is None:
            return None
        text, digest, created, accessed = row
        if not isinstance(text, str) or checksum(f"{func}\n{args}", created, text) != digest:
            self.clear_item(call_id)
            warnings.warn(
                f"A stored result in {self.path} was damaged and has been dropped; it is computed again.",
                StoreDamaged,
                stacklevel=3,
            )
            return None
        return text, _real(accessed)

    def _try_write(self, work: Callable[[sqlite3.Connection], Any], *, durable: bool) -> None:
        with contextlib.suppress(ConfigError):  # a time of access, a duration: the result is what counts
            self._database.write(work, durable=durable)

    def _note(self, func: str, digest: str) -> None:
        note = "INSERT OR REPLACE INTO joblib_functions (func, source) VALUES (?, ?)"
        self._try_write(lambda c: c.execute(note, (func, digest)), durable=True)

    def _compare(self, func: str, code: str) -> None:
        """Look whether the function's code is the one its results were made with; say so once if not."""
        if (func, code) in self._seen:
            return
        self._seen.add((func, code))
        select = "SELECT source FROM joblib_functions WHERE func=?"
        known = self._database.read(lambda c: c.execute(select, (func,)).fetchone())
        digest = _source_digest(code)
        if known is None:
            self._note(func, digest)
        elif known[0] != digest:
            if digest.startswith("repr:") or known[0].startswith("repr:"):
                self._seen.discard((func, code))
                raise NotStorable(
                    f"Two callables are named {func!r}: cache a function with a name of its own."
                )
            self._note(func, digest)
            warnings.warn(
                f"The code of {func} changed. Its stored results are kept: call .clear() on it to drop them.",
                SourceChanged,
                stacklevel=7,
            )


class _CurrentCode(str):
    """Equal to whatever code joblib compares it with: results are not tied to source text."""

    _compare: Callable[[str, str], None]
    _func: str

    def __new__(cls, compare: Callable[[str, str], None], func: str) -> _CurrentCode:
        made = super().__new__(cls, "")
        made._compare = compare
        made._func = func
        return made

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            self._compare(self._func, other)
        return True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


_DELETE = "DELETE FROM joblib_items"


def _source_digest(code: str) -> str:
    """A hash of what the code does: without comments, layout, docstring and decorators."""
    try:
        tree = ast.parse(textwrap.dedent(code))
    except SyntaxError:
        return "repr:" + blake2b(code.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            node.decorator_list = []
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return blake2b(ast.unparse(tree).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _real(value: Any) -> float:
    """``value`` as a usable number of seconds or bytes; 0 for anything damaged."""
    usable = isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value < 1e11
    return float(value) if usable else 0.0


def _encoded(value: Any) -> Any:
    """``value`` in JSON's own types; what JSON has no type for becomes a dict with one "$" key."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [_encoded(one) for one in value]
    if kind is tuple:
        return {"$tuple": [_encoded(one) for one in value]}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is dict:
        if not all(type(name) is str for name in value):
            raise NotStorable("it holds a dict with keys that are not text")
        coded = {name: _encoded(one) for name, one in value.items()}
        return {"$dict": coded} if any(name.startswith("$") for name in coded) else coded
    if kind.__module__.partition(".")[0] in ("pandas", "pyarrow"):
        return _frame_encoded(value)
    raise NotStorable(f"it holds a {kind.__module__}.{kind.__qualname__}")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        if name == "$tuple":
            return tuple(_decoded(one) for one in inner)
        if name == "$bytes":
            return base64.b64decode(inner)
        if name == "$dict":
            return {key: _decoded(one) for key, one in inner.items()}
        if name in ("$frame", "$series", "$table"):
            return _frame_decoded(name, inner)
    return {key: _decoded(one) for key, one in value.items()}


def _frame_encoded(value: Any) -> dict[str, str]:
    kind = {"DataFrame": "$frame", "Series": "$series", "Table": "$table"}.get(type(value).__name__)
    if kind is None:
        raise NotStorable(f"it holds a {type(value).__module__}.{type(value).__qualname__}")
    if importlib.util.find_spec("pyarrow") is None:
        raise NotStorable(f"it holds a {type(value).__name__}, which needs pyarrow (pip install pyarrow)")
    pa = importlib.import_module("pyarrow")

    try:
        frame = value.to_frame(name="$" if value.name is None else value.name) if kind == "$series" else value
        table = value if kind == "$table" else pa.Table.from_pandas(frame)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        text = base64.b64encode(sink.getvalue().to_pybytes()).decode()
        same = _same(value, _frame_decoded(kind, text))
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        raise NotStorable(f"it holds a {type(value).__name__} that Arrow cannot hold ({error})") from None
    if not same:
        raise NotStorable(f"it holds a {type(value).__name__} that would come back changed from Arrow")
    return {kind: text}


def _frame_decoded(kind: str, text: str) -> Any:
    if importlib.util.find_spec("pyarrow") is None:
        raise KeyError("This stored result is a frame: reading it needs pyarrow (pip install pyarrow).")
    pa = importlib.import_module("pyarrow")

    with pa.ipc.open_stream(base64.b64decode(text)) as reader:
        table = reader.read_all()
    if kind == "$table":
        return table
    frame = table.to_pandas()
    if kind == "$frame":
        return frame
    series = frame.iloc[:, 0]
    return series.rename(None) if series.name == "$" else series


def _same(value: Any, back: Any) -> bool:
    """Whether nothing was lost on the way: values, index and types."""
    if not value.equals(back) or type(value) is not type(back):
        return False
    if type(value).__name__ == "Table":
        return bool(value.schema.equals(back.schema, check_metadata=True))
    if type(value).__name__ == "Series":
        return bool(value.dtype == back.dtype and value.name == back.name and value.index.equals(back.index))
    return bool(
        list(value.dtypes) == list(back.dtypes)
        and value.columns.equals(back.columns)
        and value.index.equals(back.index)
    )
