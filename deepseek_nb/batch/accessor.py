"""``df.deepseek``: registered once pandas or polars is there, without ever importing them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["DeepSeekAccessor", "register_with_frames"]


class DeepSeekAccessor:
    """What stands behind ``df.deepseek``."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def apply(self, template: str, **options: Any) -> Any:
        """Ask about every row: see :func:`deepseek_nb.apply` for the options.

        >>> df.deepseek.apply("Rate the risk of {{purpose}}", schema=Risk, job="risk")   # doctest: +SKIP
        """
        # by name, so that reaching for df.deepseek costs nothing until it is used
        return import_module("deepseek_nb.batch.apply").apply(self._frame, template, **options)

    def submit(self, template: str, **options: Any) -> Any:
        """Ask about every row in the background: see :func:`deepseek_nb.submit` for the options.

        >>> job = df.deepseek.submit("Rate {{purpose}}", schema=Risk, job="risk")   # doctest: +SKIP
        """
        return import_module("deepseek_nb.batch.submit").submit(self._frame, template, **options)

    def plan(self, template: str, **options: Any) -> Any:
        """What ``apply`` would send and cost; nothing is sent: see :func:`deepseek_nb.plan`.

        >>> df.deepseek.plan("Rate {{purpose}}", schema=Risk)                     # doctest: +SKIP
        """
        return import_module("deepseek_nb.batch.plan").plan(self._frame, template, **options)

    def to_csv(self, path: Any = None, *, escape_formulas: bool = True, **options: Any) -> Any:
        """Write the frame as ``DataFrame.to_csv`` does, with no text that a spreadsheet takes for a formula.

        >>> df.deepseek.to_csv("answers.csv")                                    # doctest: +SKIP
        """
        export = import_module("deepseek_nb.batch.export")
        return export.to_csv(self._frame, path, escape_formulas=escape_formulas, **options)

    def to_excel(self, path: Any, *, escape_formulas: bool = True, **options: Any) -> None:
        """Write the frame as ``DataFrame.to_excel`` does, with no text that a spreadsheet computes.

        >>> df.deepseek.to_excel("answers.xlsx")                                 # doctest: +SKIP
        """
        export = import_module("deepseek_nb.batch.export")
        export.to_excel(self._frame, path, escape_formulas=escape_formulas, **options)

    def __repr__(self) -> str:
        return (
            "<df.deepseek: apply(template, schema=..., job=..., budget_usd=...), submit(...), plan(...), "
            "to_csv(), to_excel()>"
        )


class _WhenImported(MetaPathFinder):
    """Waits for ``import pandas`` or ``import polars``, registers the accessor after it, and is gone.

    ``import deepseek_nb`` commonly stands above ``import pandas`` (they are sorted), and importing
    pandas ourselves would cost everybody a second.
    """

    def __init__(self, library: str) -> None:
        self.library = library

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.library:
            return None
        for finder in sys.meta_path:  # whoever else would find it: it may be an editable install
            if finder is not self and (spec := finder.find_spec(fullname, path, target)) is not None:
                if spec.loader is not None:
                    spec.loader = _ThenRegister(spec.loader, self.library)
                return spec
        return None


class _ThenRegister(Loader):
    def __init__(self, loader: Loader, library: str) -> None:
        self._loader = loader
        self._library = library

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not _waits_for(finder, self._library)]
        _REGISTER[self._library](module)


def _waits_for(finder: object, library: str) -> bool:
    return isinstance(finder, _WhenImported) and finder.library == library


def _with_pandas(pandas: Any) -> None:
    if not hasattr(pandas.DataFrame, "deepseek"):
        pandas.api.extensions.register_dataframe_accessor("deepseek")(DeepSeekAccessor)


def _with_polars(polars: Any) -> None:
    if not hasattr(polars.DataFrame, "deepseek"):
        polars.api.register_dataframe_namespace("deepseek")(DeepSeekAccessor)
        polars.api.register_lazyframe_namespace("deepseek")(DeepSeekAccessor)  # says to collect it


_REGISTER = {"pandas": _with_pandas, "polars": _with_polars}


def register_with_frames() -> None:
    """Register ``df.deepseek`` with pandas and polars, now if they are imported, or as soon as they are."""
    for name, register in _REGISTER.items():
        library = sys.modules.get(name)
        if library is not None and hasattr(library, "DataFrame"):
            register(library)
        elif not any(_waits_for(finder, name) for finder in sys.meta_path):
            sys.meta_path.insert(0, _WhenImported(name))
