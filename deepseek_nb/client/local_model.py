"""LocalModel: a GGUF file, answered by llama.cpp inside this process when no server is to be had."""

from __future__ import annotations

import secrets
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deepseek_nb.client.routes import Route
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret

__all__ = ["LocalModel"]

MAGIC = b"GGUF"


class LocalModel:
    """A local language model as the last resort: nothing leaves the machine, and nothing is charged.

    ``path`` is a GGUF file. ``name`` is what the model is called (the file's name where None): its answers
    come by the route "local/name", in the ``route`` column and in the cache. ``concurrent`` requests are
    answered at a time, each within ``context_tokens`` (prompt and answer together). ``threads``: processor
    cores at most (None: as llama.cpp chooses); ``gpu_layers``: of the model, where there is a GPU (None: as
    many as fit). A model that thinks is told not to, as DeepSeek is for rows; ``thinking=True`` leaves it
    to the model.

    llama.cpp listens on a free port of the loopback, under a key of its own that only :attr:`route` knows.
    Its weights take about as much memory as the file is large, until :meth:`close` or the end of the process.

    Needs the extra ``local`` (xllamacpp). Raises :class:`~deepseek_nb.core.errors.ConfigError` where the
    package or the file is missing, or llama.cpp cannot load it; nothing is asked before that.

    >>> with LocalModel("qwen3-8b-q4_k_m.gguf") as local:                   # doctest: +SKIP
    ...     df.deepseek.apply("Rate {{text}}", fallback=[local.route])
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        concurrent: int = 2,
        context_tokens: int = 8192,
        threads: int | None = None,
        gpu_layers: int | None = None,
        thinking: bool = False,
    ) -> None:
        self.path = Path(path).expanduser()
        self.name = name or self.path.stem
        for told, number in {"concurrent": concurrent, "context_tokens": context_tokens}.items():
            if number < 1:
                raise ConfigError(f"{told} is a number from 1 up, not {number}.", hint="Leave it out.")
        self._concurrent = concurrent
        self._context_tokens = context_tokens
        self._threads = threads
        self._gpu_layers = gpu_layers
        self._thinking = thinking
        self.key = Secret(f"local-{secrets.token_urlsafe(24)}")
        """Whoever asks it has to have this."""
        self._server: Any = None

    def check(self) -> None:
        """Look whether the file can be a model. Raises ConfigError; loads nothing."""
        try:
            with self.path.open("rb") as file:
                magic = file.read(len(MAGIC))
        except OSError as why:
            raise ConfigError(
                f"The local model {self.path} cannot be read: {why.strerror}.", hint="Give a GGUF file."
            ) from None
        if magic != MAGIC:
            raise ConfigError(
                f"{self.path} is not a GGUF file.", hint="Other formats are to be converted for llama.cpp."
            )

    def start(self) -> Self:
        """Load the model and listen, which takes as long as reading the file; again: nothing."""
        if self._server is None:
            self._server = self._started()
        return self

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    @property
    def base_url(self) -> str:
        """Its address, OpenAI-compatible; starts it where it does not listen yet."""
        self.start()
        return f"{self._server.listening_address}/v1"

    @property
    def route(self) -> Route:
        """What ``fallback=`` takes; starts it where it does not listen yet."""
        return Route(
            base_url=self.base_url, model=self.name, api_key=self.key, name="local", dialect="openai"
        )

    def close(self) -> None:
        """Stop listening and give the memory back. Requests under way fail. Calling it twice is fine."""
        self._server = None  # its end is that of the last reference

    def _started(self) -> Any:
        llama = _llama()
        self.check()
        told = llama.CommonParams()
        told.model.path = str(self.path)
        told.model_alias = {self.name}
        told.port = 0  # a free one
        told.api_keys = [self.key.reveal()]
        told.n_parallel = self._concurrent
        told.n_ctx = self._context_tokens * self._concurrent  # it is shared among them
        told.warmup = told.ui = told.endpoint_slots = False
        told.endpoint_metrics = True
        told.verbosity = -1  # it would write to the notebook
        if self._threads is not None:
            told.cpuparams.n_threads = self._threads
        if self._gpu_layers is not None:
            told.n_gpu_layers = self._gpu_layers
        if not self._thinking:
            told.default_template_kwargs = {"enable_thinking": "false"}
        try:
            server = llama.Server(told)
        except RuntimeError:
            raise ConfigError(
                f"llama.cpp cannot load {self.path.name}.",
                hint="Is the file complete, is there memory for it, and is it a text model that "
                "this version of xllamacpp knows? A newer one: pip install -U xllamacpp",
            ) from None
        server.handle_metrics()  # its loop answers: closed before that runs, it would hang (2026.10)
        return server

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LocalModel({self.path.name!r}{'' if self.running else ', not running'})"


def _llama() -> Any:
    try:
        return import_module("xllamacpp")
    except ModuleNotFoundError:
        raise ConfigError(
            "A local model needs llama.cpp.", hint='Install it with: pip install "deepseek_nb[local]"'
        ) from None
