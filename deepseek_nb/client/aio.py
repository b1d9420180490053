"""AsyncClient: ask and stream, in any event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, get_args
from urllib.parse import urlsplit

from deepseek_nb.adapters.addresses import proxy_of
from deepseek_nb.adapters.keys import kept_key
from deepseek_nb.adapters.redis_tier import RedisStanding, RedisTier
from deepseek_nb.adapters.settings import Settings, hidden, load_settings, parse_duration_s, parse_patience_s
from deepseek_nb.adapters.spending import SPENDING_FILE, Spending
from deepseek_nb.adapters.store import AnswerStore, SharedTier
from deepseek_nb.client.arguments import amount_usd, number, switch, text, texts, whole
from deepseek_nb.client.errand import Errand
from deepseek_nb.client.gate import GateState
from deepseek_nb.client.means import price_at
from deepseek_nb.client.road import Road
from deepseek_nb.client.routes import DEEPSEEK_HOST
from deepseek_nb.client.structured import Schema
from deepseek_nb.client.tool_use import offer_of, refuse_broken_chain, turn_calls
from deepseek_nb.client.upstreams import Upstream, Upstreams, account_of
from deepseek_nb.client.watchdog import Limits
from deepseek_nb.core.admission import INTERACTIVE_LANE
from deepseek_nb.core.budget import Budget, NearBudget
from deepseek_nb.core.call import Leg
from deepseek_nb.core.caps import Caps
from deepseek_nb.core.chat import Answer, ChatRequest, Message
from deepseek_nb.core.errors import ConfigError, ContextTooLong, RequestInvalid, StoreFailed
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.form import AnswerForm, Structured
from deepseek_nb.core.metrics import Metrics
from deepseek_nb.core.notices import warn
from deepseek_nb.core.prices import Price, PriceTable
from deepseek_nb.core.responses import refuse_what_responses_lack
from deepseek_nb.core.retry import RetryPolicy
from deepseek_nb.core.tokens import estimate_request_tokens
from deepseek_nb.core.tools import ToolOffer
from deepseek_nb.core.wire import Delta, error_from_reply
from deepseek_nb.data import read_json

__all__ = ["AnswerStream", "AsyncClient", "Prompt"]

Prompt = str | Sequence[Mapping[str, Any] | Message]

INTERACTIVE_PRIORITY = 4
REDIS_WITHIN_S = 2.0
"""In a busy kernel an answer of Redis may lie unread for a while."""
_REDIS_GONE = (
    "Redis does not answer ({}). The work goes on; until it is back, answers are kept on this machine only, "
    "and what another machine asks at the same time may be paid twice."
)
_REDIS_BACK = "Redis answers again: answers are shared with other machines as before."
ROLES = ("system", "user", "assistant", "tool")


class AsyncClient:
    """A client of DeepSeek, or of anything that speaks its language.

    Settings come from the arguments, then the environment, then ``[tool.deepseek_nb]`` in
    ``pyproject.toml``: see :class:`~deepseek_nb.adapters.settings.Settings` for their names.
    Answers are kept on disk (``cache=False`` to leave it), so that the same question is paid once.

    ``fallback`` is an ordered list of where to ask when the server is busy, down or broken for too
    long: model names of the same server, and :class:`~deepseek_nb.client.routes.Route` for others. Each
    route has an admission and a breaker of its own; an answer says which route gave it, and is kept
    under that route's name.

    ``shared`` is a tier of answers between its memory and its file, which other machines share; where it is
    not given, the client opens the Redis at ``redis_url`` for that.

    One client belongs to one event loop. Nothing is sent before the first call.

    >>> async with AsyncClient() as client:                       # doctest: +SKIP
    ...     answer = await client.ask("Why is the sky blue?")
    ...     print(answer.text, answer.cost_usd)
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        fallback: Any = None,
        shared: SharedTier | None = None,
        **arguments: Any,
    ) -> None:
        settings, arguments, fallback = hidden(settings), hidden(arguments), hidden(fallback, secret=False)
        if not isinstance(settings, Settings | None):
            raise ConfigError(
                "What was given is no Settings.", hint="Name what you give: Client(api_key=..., model=...)."
            )
        if settings is None:
            settings = load_settings(kept_key=kept_key, **arguments)
        elif arguments:
            settings = settings.replace(**arguments)
        self.settings = settings
        self._upstreams = Upstreams(settings)
        self._fallback = self._upstreams.names(fallback)
        self._spending: Spending | None = None
        self.now_utc: Callable[[], datetime] = lambda: datetime.now(UTC)
        """What time it is: it decides the price, and the day that is spent from."""
        self.caps = self._calendar()
        """The limits of the day and the month; None where there are none."""
        self.budget = self._new_budget()
        self.metrics = Metrics()
        self._models: dict[str, Any] = read_json("models.json")
        self._told_retired: set[str] = set()
        self._road: Road | None = None
        self._store: AnswerStore | None = None
        self._shared = shared
        self._redis = self._new_redis()
        self._redis_news: dict[bool, str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parents: list[Any] = []

    def __repr__(self) -> str:
        if "settings" not in vars(self):  # an error on the way there may show this object
            return "<AsyncClient>"
        proxy = proxy_of(self.settings.base_url)
        through = f" through the proxy {proxy}" if proxy else ""
        return f"<AsyncClient {self.settings.base_url}{through}, model {self.settings.model!r}>"

    # ------------------------------------------------------------------------------------- asking

    async def ask(self, prompt: Prompt, **options: Any) -> Answer:
        """Ask one question and wait for the whole answer.

        ``prompt`` is a text, or a list of messages (``{"role": ..., "content": ...}``; an assistant's may
        have ``tool_calls``, and the result of a call, of the role "tool", has its ``tool_call_id``).
        Options: ``schema`` (a pydantic model, JSON Schema or ``{column: type}``: ``answer.value`` is
        then the checked value), ``structured`` ("json": JSON mode; "tool": a strict function on the beta
        address, without thinking, for schemas in its subset; "responses": the address /responses, which is
        told the schema, without ``stop``), ``tools`` (functions that the model may call, in the form of
        OpenAI: ``answer.tool_calls`` tells the calls, and nothing is called here), ``tool_choice`` ("auto",
        "none", "required" or the name of a function; the last two force a call, without thinking),
        ``system``, ``model``, ``thinking``,
        ``reasoning_effort``, ``max_tokens``, ``temperature``, ``top_p``, ``stop``,
        ``priority`` (1 to 5; 4 and 5 pass first), ``ttl`` (how old a stored answer may be: seconds, or text
        such as "30min"; ``ttl_s`` takes the number only), ``cache``, ``budget_usd``,
        ``patience`` (how long to keep trying while the server is busy: minutes, or text such as
        "90s"), ``fallback`` (where to ask then; None: as the client does, []: nowhere), ``user_id``,
        ``on_delta``, ``on_event``.

        Costs one request, none where the answer is in the store; up to ``max_repairs`` more where
        an answer does not fit the schema. Raises a :class:`~deepseek_nb.core.errors.DeepSeekError`:
        each cause has its own class.
        """
        answer = await self.take(self.prepare(prompt, **options))
        self.warn_if_needed()
        return answer

    def stream(self, prompt: Prompt, **options: Any) -> AnswerStream:
        """Ask one question and read the answer as it is written. Options as in :meth:`ask`.

        >>> async for piece in (reply := client.stream("Tell me a story")):   # doctest: +SKIP
        ...     print(piece.text, end="")
        >>> reply.answer.cost_usd                                             # doctest: +SKIP
        """
        return AnswerStream(self, prompt, options)

    async def take(self, errand: Errand) -> Answer:
        """Do a prepared errand. Costs and errors as in :meth:`ask`."""
        return await self._open().take(errand)

    def prepare(
        self,
        prompt: Prompt,
        *,
        schema: Any = None,
        structured: Structured = "json",
        tools: Sequence[Mapping[str, Any]] | ToolOffer | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        system: str | None = None,
        model: str | None = None,
        thinking: bool | None = None,
        reasoning_effort: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] = (),
        user_id: str | None = None,
        priority: int = INTERACTIVE_PRIORITY,
        ttl: float | str | None = None,
        ttl_s: float | None = None,
        cache: bool | None = None,
        budget_usd: float | None = None,
        budget: Budget | None = None,
        patience: float | str | None = None,
        fallback: Any = None,
        policy: RetryPolicy | None = None,
        on_delta: Callable[[Delta], None] | None = None,
        on_event: Callable[[CallEvent], None] | None = None,
    ) -> Errand:
        """Check a question and make it ready to send; nothing is sent. Arguments as in :meth:`ask`.

        Raises :class:`RequestInvalid`, :class:`SchemaError`, :class:`ContextTooLong` or
        :class:`ConfigError` for what can be known to fail.
        """
        settings = self.settings
        model, system = text("model", model), text("system", system)
        thinking, cache = switch("thinking", thinking), switch("cache", cache)
        lane = whole("priority", priority)
        if lane is None or not 1 <= lane <= 5:
            raise RequestInvalid(f"priority is a whole number from 1 to 5, not {priority!r}.")
        shape = None if schema is None else Schema.of(schema)
        form = _form(shape, structured, settings.base_url)
        offer = offer_of(tools, tool_choice)
        if offer is not None and shape is not None:
            raise ConfigError(
                "schema= and tools= exclude each other.",
                hint="A call is no answer of the shape: ask for one.",
            )
        messages = _messages(prompt, system, shape if form is None else None)
        model, thinking = self._current(
            model or settings.model, settings.thinking if thinking is None else thinking
        )
        if (form is not None and form.way == "tool") or (offer is not None and offer.forced):
            thinking = _thinks_not(thinking, reasoning_effort)
        request = ChatRequest(
            model=model,
            messages=messages,
            thinking=thinking,
            reasoning_effort=text("reasoning_effort", reasoning_effort),
            json_mode=shape is not None and form is None,
            max_tokens=whole("max_tokens", max_tokens),
            temperature=number("temperature", temperature),
            top_p=number("top_p", top_p),
            stop=texts("stop", stop),
            schema_digest=shape.digest if shape else None,
            form=form,
            tools=offer,
            user_id=text("user_id", user_id),
        )
        if request.over_responses:
            refuse_what_responses_lack(request)
        refuse_broken_chain(messages)
        self.refuse_what_cannot_fit(request)
        return Errand(
            request=request,
            key=request.fingerprint(settings.route_name),
            lane=lane,
            policy=policy
            or RetryPolicy(
                patience_s=settings.patience_s if patience is None else parse_patience_s(patience),
                max_faults=settings.max_faults,
                max_repairs=settings.max_repairs,
                most_tokens=self.most_tokens(model),
            ),
            budget=budget
            or (self.budget if budget_usd is None else self.new_budget(budget_usd, "budget of this call")),
            limits=Limits(
                silence_s=settings.silence_timeout_s,
                token_s=settings.token_timeout_s,
                total_s=settings.total_timeout_s,
            ),
            look_up=settings.cache if cache is None else cache,
            keep=settings.cache if cache is None else cache,
            ttl_s=_ttl_s(ttl, settings.ttl_s if ttl_s is None else ttl_s),
            fallbacks=self._upstreams.legs(
                request,
                self._fallback if fallback is None else self._upstreams.names(fallback),
                interactive=lane >= INTERACTIVE_LANE,
            ),
            failover_s=self._upstreams.failover_s(interactive=lane >= INTERACTIVE_LANE),
            hedged=settings.hedge_after_s is not None and lane >= INTERACTIVE_LANE,
            output_tokens=8192 if thinking is False else 65536,
            check=shape.checked if shape else None,
            on_delta=on_delta,
            on_event=on_event,
        )

    def other_legs(self, errand: Errand) -> Callable[[ChatRequest], tuple[Leg, ...]] | None:
        """What gives the fallback legs of another request like that errand's; None where it has none."""
        names = tuple(leg.upstream for leg in errand.fallbacks)
        if not names:
            return None
        return lambda request: self._upstreams.legs(request, names, interactive=errand.interactive)

    @property
    def not_saved(self) -> StoreFailed | None:
        """Why answers could not be written to disk, if they could not: they are in memory only."""
        return None if self._road is None else self._road.not_saved

    def warn_if_needed(self, budget: Budget | None = None) -> None:
        """Say once, in the calling thread, that 80% of a budget is spent: this client's, or ``budget``.

        Also that Redis is gone, or is back.
        """
        for notice in (budget or self.budget).take_notices():
            warn(notice, NearBudget)
        if self._redis_news:
            news, self._redis_news = self._redis_news, {}
            for up, why in news.items():
                warn(_REDIS_BACK if up else _REDIS_GONE.format(why), RedisStanding)

    def _calendar(self) -> Caps | None:
        day_usd, month_usd = self.settings.budget_day_usd, self.settings.budget_month_usd
        if day_usd is None and month_usd is None:
            return None
        self._spending = Spending(self.settings.data_dir / SPENDING_FILE, account_of(self.settings))
        return Caps(
            self._spending,
            day_usd=day_usd,
            month_usd=month_usd,
            today=lambda: self.now_utc().astimezone().date(),
        )

    def _new_budget(self, spent_usd: float = 0.0, unknown_usd: float = 0.0) -> Budget:
        return Budget(
            self.settings.budget_usd,
            parent=self.caps,
            name="budget of this client",
            spent_usd=spent_usd,
            unknown_usd=unknown_usd,
        )

    def new_budget(self, limit_usd: float | None, name: str) -> Budget:
        """A budget inside this client's own."""
        return Budget(amount_usd("budget_usd", limit_usd), parent=self.budget, name=name)

    def price_now(self, model: str) -> Price | None:
        """What a model costs at this moment at the client's own server; None where no price is known."""
        return price_at(self._upstreams.get(""), self.prices, model, self.now_utc())

    # ------------------------------------------------------------------------------- the account

    async def models(self, upstream: str = "") -> list[dict[str, Any]]:
        """The models the server offers, as it describes them. Costs nothing.

        ``upstream`` names one of ``fallback_names`` instead of the client's own server.
        """
        listing = await self._get("/models", upstream)
        return [model for model in listing.get("data", []) if isinstance(model, dict)]

    async def balance(self) -> dict[str, Any]:
        """The account's balance, as the server sends it (amounts are strings). Costs nothing."""
        return await self._get("/user/balance")

    async def _get(self, path: str, upstream: str = "") -> dict[str, Any]:
        if not upstream:
            self.settings.require_credentials()
        road = self._open()
        status, headers, body = await self._upstreams.get(upstream).transport.get(path)
        if status != 200:
            raise road.scrub(error_from_reply(status, body, headers))
        try:
            told = json.loads(body)
        except ValueError:
            raise error_from_reply(502, body, headers) from None
        return told if isinstance(told, dict) else {}

    # -------------------------------------------------------------------------------- life and death

    @property
    def store(self) -> AnswerStore | None:
        """The answer store; None with ``cache=False``. Opened at the first use."""
        if self._store is None and self.settings.cache:
            if self._redis is None:  # it was closed
                self._redis = self._new_redis()
            shared = self._shared or self._redis
            self._store = AnswerStore(self.settings.data_dir / "answers.db", shared=shared)
        return self._store

    @property
    def redis(self) -> RedisTier | None:
        """The Redis at ``redis_url``, which belongs to the client's loop; None where it shares no answers."""
        return self._redis

    def _new_redis(self) -> RedisTier | None:
        """Raises ConfigError where the package is missing, or the address is none."""
        settings = self.settings
        if self._shared is not None or settings.redis_url is None or not settings.cache:
            return None
        return RedisTier(
            settings.redis_url,
            keep_s=settings.redis_keep_s,
            within_s=REDIS_WITHIN_S,
            told=self._note_redis,
        )

    def _note_redis(self, up: bool, why: str) -> None:
        """Keep what is to be said: that it went, that it is back, or the one after the other."""
        self._redis_news.pop(True, None)
        self._redis_news[up] = why

    @property
    def road(self) -> Road:
        """What carries the requests: its gate and its listeners are there to be looked at."""
        return self._open()

    @property
    def fallback_names(self) -> tuple[str, ...]:
        """What the servers of ``fallback`` are called in errands and for :meth:`upstream`, in its order."""
        return self._fallback

    def upstream(self, name: str = "") -> Upstream:
        """One of its servers: its own, or one of ``fallback_names``. In its loop only."""
        return self._upstreams.get(name)

    def standing(self) -> dict[str, GateState]:
        """How the lines to its own server stand, by model; empty while it is not open. In its loop only."""
        return self._upstreams.standing()

    def _open(self) -> Road:
        loop = asyncio.get_running_loop()
        if self._road is not None:
            if loop is not self._loop:
                raise ConfigError(
                    "This AsyncClient belongs to another event loop.",
                    hint="Make one client in each loop, or use the blocking Client, which brings its own.",
                )
            return self._road
        self._loop = loop
        self._road = Road(
            upstream=self._upstreams.get,
            require_credentials=self.settings.require_credentials,
            store=self.store,
            prices=self.prices,
            secrets=self._upstreams.secrets,
            now_utc=lambda: self.now_utc(),
        )
        self._road.listeners.append(self.metrics)
        return self._road

    def begin_in_child(self) -> None:
        """In a forked child: go on with a loop, connections and books of its own, which begin as they stood.

        What is in flight, or open, is the parent's. From here on ``budget_usd`` is counted in each of the
        two, a limit of the day or month together.
        """
        self._upstreams.begin_in_child()
        self.caps = self._calendar()
        self.budget = self._new_budget(self.budget.spent_usd, self.budget.unknown_usd)
        self._road = self._loop = None
        self._parents.append(self._redis)
        self._redis = self._new_redis()

    async def aclose(self) -> None:
        """Close the connections and the store."""
        store, redis = self._store, self._redis
        self._road = self._store = self._redis = self._loop = None
        await self._upstreams.aclose()
        if redis is not None:
            await redis.aclose()
        if store is not None:
            store.close()
        if self._spending is not None:
            self._spending.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @cached_property
    def prices(self) -> PriceTable:
        """What tokens cost and when."""
        return PriceTable.from_data(read_json("prices.json"), read_json("holidays_cn.json"))

    # ------------------------------------------------------------------------------------- checks

    def _current(self, model: str, thinking: bool | None) -> tuple[str, bool | None]:
        """The model of today under a name of yesterday, with a warning: names are data."""
        retired = self._models.get("retired", {}).get(model)
        if retired is None:
            return model, thinking
        use = retired["use"]
        if model not in self._told_retired:
            self._told_retired.add(model)
            how = "with" if retired.get("thinking") else "without"
            warn(
                f"The model name {model!r} is retired; {use!r} is asked instead {how} thinking.", UserWarning
            )
        return use, retired.get("thinking") if thinking is None else thinking

    def most_tokens(self, name: str) -> int | None:
        """The longest answer that model gives, in tokens; None for a model we do not know."""
        model = self._known_model(name)
        return None if model is None else int(model["max_output_tokens"])

    def _known_model(self, name: str) -> dict[str, Any] | None:
        for model in self._models["models"]:
            if name == model["id"] or name in model.get("aliases", ()):
                found: dict[str, Any] = model
                return found
        return None

    def refuse_what_cannot_fit(self, request: ChatRequest) -> None:
        """Raise :class:`ContextTooLong` for a request that is surely too long for its model."""
        model = self._known_model(request.model)
        if model is None:
            return
        # our count is an upper estimate: only what is too long even at half of it is refused here
        least = estimate_request_tokens(request) // 2 + (request.max_tokens or 0)
        if least > model["context_tokens"]:
            raise ContextTooLong(
                f"The prompt ({request.prompt_chars():,} characters) and the answer asked for do not fit "
                f"{request.model}'s context of {model['context_tokens']:,} tokens. Nothing was sent."
            )


class AnswerStream:
    """An answer being written: iterate for its pieces; ``answer`` is there after the last one.

    A piece with ``restart`` set says that what came before belongs to a try that broke: start over.
    Leaving the loop early hangs up.
    """

    def __init__(self, client: AsyncClient, prompt: Prompt, options: Mapping[str, Any]) -> None:
        self.answer: Answer | None = None
        self._client = client
        self._pieces: asyncio.Queue[Delta | None] = asyncio.Queue()
        self._errand = client.prepare(prompt, **options)
        wanted = self._errand.on_delta

        def take(piece: Delta) -> None:
            self._pieces.put_nowait(piece)
            if wanted is not None:
                wanted(piece)

        self._errand = replace(self._errand, on_delta=take)

    async def _run(self) -> None:
        try:
            self.answer = await self._client.take(self._errand)
        finally:
            self._pieces.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        work = asyncio.create_task(self._run())
        try:
            while (piece := await self._pieces.get()) is not None:
                yield piece
            await work
            self._client.warn_if_needed()
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait([work])


def _form(shape: Schema | None, structured: Structured, base_url: str) -> AnswerForm | None:
    """What the server is told of the shape apart from the messages; None in JSON mode."""
    if structured not in get_args(Structured):
        raise ConfigError(f"structured= is 'responses', 'json' or 'tool', not {structured!r}.")
    if structured == "json":
        return None
    if shape is None:
        raise ConfigError(
            f"structured={structured!r} needs a schema.", hint="Pass schema=, such as {'label': str}."
        )
    url = urlsplit(base_url)
    astray, address = ("/v1", "beta address") if structured == "tool" else ("/beta", "address /responses")
    if url.path.rstrip("/").endswith(astray) and f".{url.hostname}".endswith(f".{DEEPSEEK_HOST}"):
        raise ConfigError(
            f"structured={structured!r} uses DeepSeek's {address}, which base_url's {astray} does not lead "
            "to.",
            hint=f"Leave {astray} out of base_url: https://api.deepseek.com",
        )
    return shape.form(structured)


def _ttl_s(ttl: float | str | None, otherwise_s: float | None) -> float | None:
    """How old an answer may be, by the name that jobs and magics have for it."""
    return otherwise_s if ttl is None else parse_duration_s(ttl)


def _thinks_not(thinking: bool | None, effort: str | None) -> bool:
    if thinking or effort not in (None, "none"):
        raise RequestInvalid(
            "The service forces no function call while the model thinks.",
            hint="Leave out thinking, or what forces the call (structured, tool_choice). Nothing was sent.",
        )
    return False


def _messages(prompt: Prompt, system: str | None, shape: Schema | None) -> tuple[Message, ...]:
    """The conversation to send: instruction and schema first and stable, the question last."""
    turns: list[Message] = []
    if isinstance(prompt, str):
        turns.append(Message("user", prompt))
    elif isinstance(prompt, Sequence):
        turns.extend(_message(turn) for turn in prompt)
    else:
        raise RequestInvalid(f"A prompt is a text or a list of messages, not {type(prompt).__name__}.")
    if not any(turn.content.strip() for turn in turns if turn.role != "system"):
        raise RequestInvalid("The prompt is empty.", hint="Write a question; nothing was sent.")
    instruction = "\n\n".join(part for part in (system, shape.instruction() if shape else None) if part)
    if instruction:
        turns.insert(0, Message("system", instruction))
    return tuple(turns)


def _message(turn: object) -> Message:
    if isinstance(turn, Message):
        return turn
    given = turn if isinstance(turn, Mapping) else {}
    calls, content = turn_calls(given), given.get("content")
    if calls and content is None:
        content = ""  # what has calls needs no text
    if not isinstance(content, str) or given.get("role") not in ROLES:
        raise RequestInvalid(
            f"A message is {{'role': one of {', '.join(ROLES)}, 'content': text}}, not {turn!r:.80}."
        )
    return Message(
        given["role"],
        content,
        given.get("reasoning_content"),
        bool(given.get("prefix", False)),
        calls,
        given.get("tool_call_id"),
    )
