"""The shell face: ``deepseek-nb demo | sandbox | gateway | worker | models | balance | jobs | cache``."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from deepseek_nb import __version__
from deepseek_nb.cli_common import add_data_dir, add_server, data_dir, given, room
from deepseek_nb.cli_gateway import add_gateway
from deepseek_nb.cli_jobs import add_jobs, by_name
from deepseek_nb.cli_worker import add_worker
from deepseek_nb.core.errors import ConfigError, DeepSeekError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status.

    0 done, 1 rows left, 2 an error, 130 interrupted, 141 nobody reads what it says (``| head -1``).
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may know fewer letters than answers and names have
            stream.reconfigure(errors="backslashreplace")
    try:
        with _flushed():
            options = _parser().parse_args(by_name(sys.argv[1:] if arguments is None else arguments))
            return int(options.run(options) or 0)
    except DeepSeekError as error:
        print("\n".join(error._render_traceback_()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. What is done is saved; the same command goes on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more
        return 141


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Write out what was printed, so that it fails here if it does."""
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


class _Parser(argparse.ArgumentParser):
    """Complains of what it cannot read without repeating a key: the complaint ends up in logs."""

    def error(self, message: str) -> NoReturn:
        super().error(re.sub(r"(--?[\w-]*(?:key|token|secret)[\w-]*[= ]|sk-)[^\s'\"]+", r"\1****", message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="deepseek-nb",
        description="DeepSeek for notebooks and DataFrames: gets the work through a busy server.",
        epilog="Settings come from the environment (DEEPSEEK_API_KEY, DEEPSEEK_NB_...) and from "
        "[tool.deepseek_nb] in pyproject.toml.",
    )
    parser.add_argument("--version", action="version", version=f"deepseek-nb {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_sandbox(commands)
    add_gateway(commands)
    add_worker(commands)
    for name, run, told in (
        ("models", _models, "list the models the server offers"),
        ("balance", _balance, "show the account's balance"),
    ):
        command = commands.add_parser(name, help=told)
        add_server(command)
        command.set_defaults(run=run)
    add_jobs(commands)
    _add_cache(commands)
    return parser


# ------------------------------------------------------------------------------------------- demo


def _add_demo(commands: Any) -> None:
    command = commands.add_parser(
        "demo",
        help="score 1,000 credit applicants through a server that misbehaves",
        description="Score the 1,000 applicants of German credit. Without a key it starts a simulated server "
        "that misbehaves; with --api-key the same job runs on the real service. Run again, it sends nothing: "
        "the answers are kept.",
    )
    add_server(command)
    command.add_argument("--model", help="the model to ask (default: deepseek-flash)")
    command.add_argument("--rows", type=int, metavar="N", help="only the first N applicants")
    command.add_argument("--job", help="the job's name (default: demo-german-credit)")
    command.add_argument(
        "--budget", type=float, metavar="USD", dest="budget_usd", help="spend at most this much"
    )
    command.add_argument(
        "--calm", action="store_false", dest="faults", help="let the simulated server behave"
    )
    command.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    if options.rows is not None and options.rows < 1:
        raise ConfigError(f"--rows is at least 1, not {options.rows}.")
    names = ("rows", "base_url", "api_key", "model", "job", "budget_usd", "data_dir", "faults")
    return int(room("demo").run_demo(**given(options, *names)))


# ---------------------------------------------------------------------------------------- sandbox


def _add_sandbox(commands: Any) -> None:
    command = commands.add_parser(
        "sandbox",
        help="run the simulated DeepSeek server until interrupted",
        description="A simulated DeepSeek server on 127.0.0.1. Its answers come from simple rules. "
        "Faults are given by name and share: --faults busy_503=0.1,hang=0.01 (--list-faults names them all).",
    )
    command.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    command.add_argument("--api-key", help="the only key it takes (default: sk-sandbox-0000000000000000)")
    command.add_argument("--faults", default="", metavar="NAME=SHARE,...", help="how it misbehaves")
    command.add_argument("--list-faults", action="store_true", help="name every fault and stop")
    command.add_argument("--log", dest="log_path", metavar="FILE", help="write one line of JSON per request")
    command.add_argument("--seed", type=int, default=0, help="of everything that is drawn by chance")
    command.add_argument(
        "--balance", dest="balance_usd", metavar="USD", help="the account's balance (default: 100.00)"
    )
    command.add_argument(
        "--concurrency", type=int, help="requests at once before a 429 (default: by balance)"
    )
    command.add_argument("--slots", type=int, help="requests worked on at once (default: all)")
    command.add_argument(
        "--queue", type=int, help="requests that may wait for a slot before a 503 (default: 0)"
    )
    command.add_argument(
        "--weather",
        metavar="NAME",
        help="let slots, queue and limit change with time: limit, queue, storm, flat:SLOTS:LIMIT:QUEUE",
    )
    command.add_argument(
        "--first-token", type=float, dest="first_token_s", metavar="S", help="seconds to the first token"
    )
    command.add_argument(
        "--token", type=float, dest="token_s", metavar="S", help="seconds from token to token"
    )
    command.add_argument("--time-scale", type=float, metavar="X", help="server seconds in a real second")
    command.add_argument(
        "--replay", metavar="FILE", help="give recorded answers after the recorded time: a CSV file"
    )
    command.add_argument(
        "--replay-columns",
        default="text,answer,wait_s",
        metavar="TEXT,ANSWER,WAIT",
        help="its columns: a row's text, its answer, the wait in seconds (default: text,answer,wait_s)",
    )
    command.add_argument("--speed", type=float, metavar="X", help="recorded seconds in a second (default: 1)")
    command.add_argument(
        "--unknown",
        choices=("refuse", "simulate"),
        help="what a request without a recording gets: a 400 (the default), or a simulated answer",
    )
    command.set_defaults(run=_sandbox)


def _sandbox(options: argparse.Namespace) -> int:
    sandbox_room = room("sandbox")
    if options.list_faults:
        print(sandbox_room.fault_table())
        return 0
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"--port is 0 to 65535, not {options.port}.")
    names = ("port", "api_key", "seed", "log_path", "balance_usd", "concurrency", "slots", "queue", "weather")
    told = given(options, *names, "first_token_s", "token_s", "time_scale")
    try:
        if options.faults:
            told["faults"] = sandbox_room.FaultScript.weights(_shares(options.faults), seed=options.seed)
        if options.replay:
            columns = tuple(options.replay_columns.split(","))
            how = given(options, "speed", "unknown")
            told["engine"] = sandbox_room.Replay.read(options.replay, columns=columns, **how)
        elif given(options, "speed", "unknown"):
            raise ConfigError("--speed and --unknown go with --replay FILE.")
        sandbox = sandbox_room.Sandbox(**told)
    except (ValueError, TypeError) as why:
        raise ConfigError(f"The sandbox cannot be set up so: {why}") from None
    except OSError as why:
        raise ConfigError(f"{why.filename!r} cannot be opened: {why.strerror or why}.") from None
    try:
        sandbox.serve_forever(_announce)
    except BrokenPipeError:
        raise  # of the lines it says
    except OSError as why:
        raise ConfigError(
            f"The sandbox cannot listen on port {options.port}: {os.strerror(why.errno or 0)}.",
            hint="Leave out --port to take a free one.",
        ) from None
    return 0


def _announce(sandbox: Any) -> None:
    print(f"A SIMULATED DeepSeek server listens on {sandbox.base_url} (Ctrl-C ends it)")
    print(f"  export DEEPSEEK_NB_BASE_URL={sandbox.base_url} DEEPSEEK_API_KEY={sandbox.api_key}", flush=True)
    replay = sandbox.setup.engine
    if replay is not None:
        print(f"  It REPLAYS recorded answers; texts in {replay.recording}: {len(replay):,}", flush=True)


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            raise ConfigError(f"{part!r} is not NAME=SHARE, such as busy_503=0.1.") from None
    return shares


# ------------------------------------------------------------------------- the account and the files


def _client(options: argparse.Namespace) -> Any:
    return room("client.sync").Client(**given(options, "base_url", "api_key", "data_dir"))


def _models(options: argparse.Namespace) -> None:
    with _client(options) as client:
        for model in client.models():
            window = model.get("context_window")
            size = f"  context {window:,} tokens" if isinstance(window, int) else ""
            print(f"{model.get('id', '?'):24}{model.get('name', '')}{size}".rstrip())


def _balance(options: argparse.Namespace) -> None:
    with _client(options) as client:
        told = client.balance()
    for info in told.get("balance_infos", []):
        print(f"{info.get('total_balance')} {info.get('currency')} (granted {info.get('granted_balance')})")
    if not told.get("is_available", True):
        print("The account has no balance to ask with.")


def _add_cache(commands: Any) -> None:
    command = commands.add_parser("cache", help="show what the answer store holds, or purge it")
    add_data_dir(command)
    command.add_argument("--purge", action="store_true", help="delete answers (all, or those chosen below)")
    command.add_argument("--older-than", metavar="AGE", help="only answers older than this, such as 30d")
    command.add_argument("--match", metavar="PATTERN", help="only keys like this, such as 'sandbox/*'")
    command.set_defaults(run=_cache)


def _cache(options: argparse.Namespace) -> int:
    if not options.purge and (options.older_than is not None or options.match is not None):
        raise ConfigError("--older-than and --match go with --purge.")
    file = data_dir(options) / "answers.db"
    if not file.exists():
        print(f"No answers in {file.parent}")
        return 0
    with room("adapters.store").AnswerStore(file) as store:
        if options.purge:
            age = options.older_than
            age_s = None if age is None else room("adapters.settings").parse_duration_s(age)
            print(f"Deleted {store.purge(older_than_s=age_s, match=options.match):,} answers")
            return 0
        stats = store.stats()
        print(f"{file}\n{stats['items']:,} answers, {stats['size_bytes'] / 1e6:,.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
