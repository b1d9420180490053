"""The service behind the socket: routes, room, credit, faults, answers, the bill and the record."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter as Tally
from collections import OrderedDict, deque
from dataclasses import replace
from math import exp
from string import ascii_letters, digits
from typing import Any
from urllib.parse import urlsplit

from deepseek_nb.core.chat import REPLAYED
from deepseek_nb.sandbox.account import Account, Catalogue, Model
from deepseek_nb.sandbox.answers import AnswerHead, Bill, ToolCall, compact
from deepseek_nb.sandbox.api import check_key, parse_chat
from deepseek_nb.sandbox.clock import ServerClock
from deepseek_nb.sandbox.conditions import CONDITIONS
from deepseek_nb.sandbox.engine import answer
from deepseek_nb.sandbox.faults import Fault
from deepseek_nb.sandbox.http import MAX_BODY_BYTES, Connection, RawRequest
from deepseek_nb.sandbox.log import RequestLog, RequestRecord
from deepseek_nb.sandbox.plans import Work, plan
from deepseek_nb.sandbox.prefix_cache import PrefixCache
from deepseek_nb.sandbox.questions import Completion, ParsedRequest, Refused
from deepseek_nb.sandbox.refusals import REFUSALS, ApiError, balance_empty, busy, error_reply, rate_limited
from deepseek_nb.sandbox.response_events import ResponsesWork
from deepseek_nb.sandbox.responses import RESPONSES_PATHS
from deepseek_nb.sandbox.run import Run
from deepseek_nb.sandbox.script import Ask, chance
from deepseek_nb.sandbox.setup import Setup
from deepseek_nb.sandbox.spoil import SPOILERS, bundled, draft_answer
from deepseek_nb.sandbox.steps import BLANK, COMMENT, Reply
from deepseek_nb.sandbox.tokens import make_counter
from deepseek_nb.sandbox.weather import COST_429_S, COST_503_S, Weather, checked, weather_of

__all__ = ["Service"]

CHAT_PATHS = frozenset(
    {"/chat/completions", "/v1/chat/completions", "/beta/chat/completions", "/beta/v1/chat/completions"}
)
FIM_PATHS = frozenset({"/completions", "/v1/completions", "/beta/completions"})
ROUTES = dict.fromkeys(CHAT_PATHS | FIM_PATHS | RESPONSES_PATHS, "POST") | dict.fromkeys(
    ("/models", "/v1/models", "/user/balance", "/v1/user/balance"), "GET"
)


def _weather(setup: Setup) -> tuple[Weather, ...]:
    if setup.weather is None:
        return ()
    if isinstance(setup.weather, str):
        return weather_of(setup.weather, setup.seed)
    return checked(setup.weather)


def _slotless(fault: Fault | None) -> bool:
    """Whether a request is lost before it comes to a slot."""
    return fault is not None and fault.name == "hang" and not fault["slot"]


class Case:
    """One request's way through the service; it hears from the connection how the answer fares."""

    def __init__(self, service: Service, path: str) -> None:
        self.service = service
        self.index = service.next_index()
        self.arrived_s = service.clock.now_s()
        self.path = path
        self.request: ParsedRequest | None = None
        self.model: Model | None = None
        self.fault: Fault | None = None
        self.bill: Bill | None = None
        self.recording = ""
        self.good = False
        self.counted = False
        self.has_slot = False
        self.run: Run | None = None
        self.nth_try = 0
        self._tokens = 0
        self._stored = False

    def sent(self, tokens: int) -> None:
        """Count what was handed over; with the first token the prompt is in the cache."""
        if tokens:
            self._tokens += tokens * self.service.setup.tokens_per_event
            self._remember()

    def _remember(self) -> None:
        if not self._stored and self.request is not None:
            self._stored = True
            self.service.remember(self.request)

    def ended(self, run: Run, *, complete: bool) -> None:
        """Settle: give back room, charge, write the record."""
        service, request = self.service, self.request
        spec = None if self.fault is None else self.fault.spec
        hit = produced = 0
        cost_usd = 0.0
        charged = self.bill is not None and (spec is None or spec.charged != "no")
        if charged and request is not None and self.bill is not None and (self._tokens or complete):
            self._remember()
            hit = self.bill.hit_tokens
            produced = min(self._tokens, self.bill.completion_tokens)
            miss = self.bill.prompt_tokens - hit
            cost_usd = service.account.charge(request.served, service.clock.utc(), hit, miss, produced)
        answered = request is not None and complete and run.status == 200
        whole = answered and (spec is None or spec.whole)
        service.settle(self)
        service.log.append(
            RequestRecord(
                index=self.index,
                arrived_s=self.arrived_s,
                ended_s=service.clock.now_s(),
                path=self.path,
                status=run.status,
                model=None if request is None else request.model,
                user_id=None if request is None else request.user_id,
                request_hash=None if request is None else request.request_hash,
                prompt_hash=None if request is None else request.prompt_hash,
                question_hash=None if request is None else request.question_hash,
                fault=None if self.fault is None else self.fault.name,
                complete=whole,
                usable=whole and self.good and (spec is None or spec.usable),
                aborted=run.connection.gone and not complete,
                bytes_sent=run.bytes_sent,
                prompt_tokens=0 if request is None else request.prompt_tokens,
                cache_hit_tokens=hit,
                completion_tokens=produced,
                cost_usd=cost_usd,
                stream=request is not None and request.stream,
                replayed=self.recording or None,
            )
        )


class Service:
    """Everything one sandbox knows. Lives in its event loop; ``lock`` guards what others read."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.lock = threading.RLock()
        self.clock = ServerClock(setup.time_scale, setup.now)
        self.log = RequestLog(setup.log_path, lock=self.lock)
        self.account = Account(setup.balance_usd, setup.concurrency)
        self.catalogue = Catalogue(setup.models_shape)
        self.counter = make_counter(setup.count)
        self.cache = PrefixCache(
            setup.cache_rule, settle_s=setup.cache_settle_s, expiry_s=setup.cache_expiry_s
        )
        self.engine = answer if setup.engine is None else setup.engine
        self.faults = setup.faults
        self.in_flight = 0
        self.slots, self.queue, self.up = setup.slots, setup.queue, True
        self._weather = deque(_weather(setup))
        self._weather_s: float | None = None  # when it began
        self._weather_timer: asyncio.TimerHandle | None = None
        self._outage_luck = random.Random(setup.seed * 7 + 5)  # noqa: S311
        self._debt_s = 0.0  # what refusals cost, where there is weather
        self._arrivals = 0
        self._serving: dict[Case, None] = {}
        self._waiting: OrderedDict[int, tuple[Case, asyncio.Future[None]]] = OrderedDict()
        self._tries: Tally[str] = Tally()
        self._let_in: Tally[Fault] = Tally()
        self._ids = random.Random(setup.seed)  # noqa: S311  names, not secrets

    # ------------------------------------------------------------------------------- requests

    def accept(self, raw: RawRequest, connection: Connection) -> None:
        """Answer one request, or let a task answer it."""
        path = urlsplit(raw.target).path
        if len(path) > 1:
            path = path.rstrip("/")
        case = Case(self, path)
        case.run = run = connection.start(raw, case)
        try:
            reply = self._reply(raw, path, case)
        except ApiError as error:
            reply = error.reply
        if reply is None:
            connection.spawn(self._serve_in_turn(case, run))
        else:
            connection.play(run, self._with_request_id(reply))

    def _reply(self, raw: RawRequest, path: str, case: Case) -> Reply | None:
        """The reply, if it is known at once; None if the request has to wait for a slot."""
        method = ROUTES.get(path)
        if method is None or (path in RESPONSES_PATHS and self.catalogue.shape == "july"):
            return Reply.whole(b"", 404, None)
        if raw.method != method and not (raw.method == "HEAD" and method == "GET"):
            return Reply.whole(b"", 405, None)
        check_key(raw, self.setup.api_key)
        if path.endswith("/models"):
            return Reply.whole(compact(self.catalogue.to_json()))
        if path.endswith("/user/balance"):
            return Reply.whole(compact(self.account.to_json()))
        if len(raw.body) > MAX_BODY_BYTES:
            return error_reply(413, "Request body too large")
        case.request, case.model = parse_chat(
            raw, path, self.catalogue, self.counter, status_422=self.setup.status_422
        )
        return self._admit(case, case.request, case.model)

    def _admit(self, case: Case, request: ParsedRequest, model: Model) -> Reply | None:
        if self._weather and self._weather_s is None:
            self._weather_s = self.clock.now_s()
            self._turn()
        if self.account.empty:
            return balance_empty()
        if not self.up:
            return busy()
        limit = self.account.limit(model.concurrency)
        if self.in_flight >= limit:
            self._owe(COST_429_S)
            return rate_limited(self.in_flight + 1, limit)
        full = self.slots is not None and len(self._serving) >= self.slots
        if full and len(self._waiting) >= self.queue:
            self._owe(COST_503_S)
            return busy()
        case.fault = self._fault(case, request)
        if case.fault is not None and case.fault.name in REFUSALS:
            return REFUSALS[case.fault.name](case.fault, request)
        self.in_flight += 1
        case.counted = True
        if full and not _slotless(case.fault):
            return None
        return self._begin(case, request)

    def _fault(self, case: Case, request: ParsedRequest) -> Fault | None:
        case.nth_try = self._tries[request.prompt_hash]
        self._tries[request.prompt_hash] += 1
        script = self.faults
        if script is None:
            return None
        text = "\n".join(message["content"] for message in request.messages)
        fault = script(
            Ask(case.index, request.prompt_hash, case.nth_try, text, request.stream, request.json_mode)
        )
        condition = None if fault is None else CONDITIONS.get(fault.name)
        if fault is None or condition is None:
            return fault
        played = condition(fault, request, self.in_flight, self._let_in[fault])
        self._let_in[fault] += played is None
        return played

    def _begin(self, case: Case, request: ParsedRequest) -> Reply:
        """Take a slot and make the answer."""
        self._take_slot(case)
        setup, fault = self.setup, case.fault
        try:
            completion = self.engine(request)
        except Refused as why:
            return error_reply(400, str(why))
        except Exception as error:  # noqa: BLE001  an engine is anybody's code; its failure is a 500
            return error_reply(
                500, f"The answer engine failed: {error!r}", "internal_error", "internal_error"
            )
        case.recording = completion.recording
        draft = draft_answer(request, completion, self.counter)
        if fault is not None and fault.name in SPOILERS:
            draft = SPOILERS[fault.name](draft, fault, request, self.counter)
        case.good = draft.finish_reason == "stop" and bool("".join(draft.content).strip())
        hit = self.cache.hit_tokens(
            request.user_id, request.prompt_tokens, request.blocks, request.prompt_hash, self.clock.now_s()
        )
        thought = None if draft.reasoning is None else len(draft.reasoning)
        case.bill = Bill(request.prompt_tokens, hit, draft.tokens, thought)
        if setup.tokens_per_event > 1:
            draft = bundled(draft, setup.tokens_per_event)
        factor = 1.0
        if setup.spread:
            drawn = random.Random(chance(setup.seed, "time", request.prompt_hash, case.nth_try))  # noqa: S311
            factor = exp(setup.spread * drawn.gauss(0.0, 1.0))
        first_s = setup.first_token_s * factor
        token_s = setup.token_s * setup.tokens_per_event * factor
        if completion.wait_s is not None:
            first_s, token_s = completion.wait_s, 0.0
        waste_s = min(self._debt_s, first_s + token_s * draft.tokens)
        self._debt_s -= waste_s
        fingerprint = f"{REPLAYED}{case.recording}" if case.recording else setup.fingerprint
        kind = ResponsesWork if case.path in RESPONSES_PATHS else Work
        work = kind(
            AnswerHead(self._uuid(), int(self.clock.utc().timestamp()), request.served, fingerprint),
            draft,
            case.bill,
            request.stream,
            request.include_usage,
            setup.usage_chunk,
            first_s + waste_s,
            token_s,
            setup.keep_alive_s,
            fim=case.path in FIM_PATHS,
            calls=self._calls(request, completion, fault),
        )
        reply = plan(work, fault)
        if case.recording:
            reply = replace(reply, headers=(*reply.headers, ("x-deepseek-nb-replay", case.recording)))
        return reply

    async def _serve_in_turn(self, case: Case, run: Run) -> None:
        """Wait for a slot with keep-alives, then answer; close if it takes too long."""
        request, setup = case.request, self.setup
        assert request is not None  # noqa: S101  only admitted requests come here
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[case.index] = (case, turn)
        beat = COMMENT if request.stream else BLANK
        run.open(Reply((), content_type="text/event-stream" if request.stream else "application/json"))
        while not turn.done():
            waited_s = self.clock.now_s() - case.arrived_s
            if waited_s >= setup.close_after_s:
                run.give_up()
                return
            next_s = min(setup.keep_alive_s * (waited_s // setup.keep_alive_s + 1), setup.close_after_s)
            await asyncio.wait([turn], timeout=self.clock.real_s(next_s - waited_s))
            if not turn.done() and setup.close_after_s > self.clock.now_s() - case.arrived_s >= next_s:
                run.send(beat)
        await run.play_slowly(self._begin(case, request))

    def _take_slot(self, case: Case) -> None:
        if not case.has_slot and not _slotless(case.fault):
            case.has_slot = True
            self._serving[case] = None

    def settle(self, case: Case) -> None:
        """Give back the room a request took, and let the next ones begin."""
        self._waiting.pop(case.index, None)
        if case.counted:
            case.counted = False
            self.in_flight -= 1
        if case.has_slot:
            case.has_slot = False
            del self._serving[case]
        self._fill()

    def _fill(self) -> None:
        """Let those who wait begin, as far as there are slots."""
        while self.up and self._waiting and self.slots is not None and len(self._serving) < self.slots:
            _, (waiting, turn) = self._waiting.popitem(last=False)
            self._take_slot(waiting)
            turn.set_result(None)

    def remember(self, request: ParsedRequest) -> None:
        """Put a prompt into the prefix cache."""
        self.cache.store(
            request.user_id, request.prompt_tokens, request.blocks, request.prompt_hash, self.clock.now_s()
        )

    # ------------------------------------------------------------------------------- weather

    def _turn(self) -> None:
        """Take the next step of the weather, and set the timer for the one after it."""
        assert self._weather_s is not None  # noqa: S101  it has begun
        step = self._weather.popleft()
        with self.lock:
            fell = self.up and not step.up
            self.slots, self.queue, self.up = step.slots, step.queue, step.up
            self.account.concurrency = step.limit
            for case in list(self._serving) if fell else ():
                if case.run is not None and self._outage_luck.random() < 0.5:
                    case.run.break_off(reset=True)
            self._fill()
        if self._weather:
            wait_s = self._weather_s + self._weather[0].since_s - self.clock.now_s()
            self._weather_timer = asyncio.get_running_loop().call_later(
                max(0.0, self.clock.real_s(wait_s)), self._turn
            )

    def _owe(self, cost_s: float) -> None:
        if self._weather_s is not None:
            self._debt_s += cost_s

    def stop(self) -> None:
        """Let no more weather come."""
        if self._weather_timer is not None:
            self._weather_timer.cancel()

    # ------------------------------------------------------------------------------- numbers

    def next_index(self) -> int:
        """The number of the next request."""
        self._arrivals += 1
        return self._arrivals - 1

    def trace_id(self) -> str:
        """A name for one answer, 32 hexadecimal digits."""
        return f"{self._ids.getrandbits(128):032x}"

    def _calls(
        self, request: ParsedRequest, completion: Completion, fault: Fault | None
    ) -> tuple[ToolCall, ...]:
        """The calls an answer consists of; the fault "dsml" makes markup of them."""
        if fault is not None and fault.name == "dsml":
            return ()
        called = [(call.name, len(call.arguments)) for call in completion.calls]
        if request.tool is not None and not called:
            called = [(request.tool.name, 0)]
        return tuple(
            ToolCall(
                name,
                f"call_{index:02d}_{''.join(self._ids.choices(ascii_letters + digits, k=24))}",
                index,
                chars,
            )
            for index, (name, chars) in enumerate(called)
        )

    def _uuid(self) -> str:
        name = f"{self._ids.getrandbits(128):032x}"
        return f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}"

    def _with_request_id(self, reply: Reply) -> Reply:
        if not self.setup.request_id_suffix or reply.status < 400 or reply.length is None:
            return reply
        marker = b'","type":"'
        parts: list[Any] = [step.data for step in reply.steps if hasattr(step, "data")]
        body = b"".join(parts)
        if marker not in body:
            return reply
        body = body.replace(marker, f" (request_id: {self._uuid()}){marker.decode()}".encode(), 1)
        return Reply.whole(body, reply.status, reply.content_type, headers=reply.headers)
