"""The main job, end to end: 1,000 real credit applicants through a DeepSeek server that misbehaves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import pydantic

from deepseek_nb.batch.apply import apply
from deepseek_nb.client.sync import Client
from deepseek_nb.core.prices import PriceTable
from deepseek_nb.data import read_json, read_text
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox

__all__ = ["FAULTS", "PROTECTED", "CreditRisk", "applicants", "run_demo", "template"]

JOB = "demo-german-credit"
SEED = 7
PACE: dict[str, Any] = {
    "first_token_s": 0.1,
    "token_s": 0.002,
    "spread": 0.5,
    "keep_alive_s": 0.3,
    "balance_usd": None,
}
"""The simulated server: quicker than the real one, so that nobody waits for a demo."""
SYSTEM = (
    "You are a credit analyst at a German bank of the 1970s. Amounts are in Deutsche Mark. "
    "Judge the risk that this loan is not paid back, only from what the application says."
)

PROTECTED = ("personal_status_and_sex", "foreign_worker", "age_in_years")
"""Never part of a prompt: a score must not hang on them."""
NOT_ASKED = ("applicant_id", "credit_risk")
"""The number of the file, and what really happened."""

RATE_429 = Fault("rate_429", limit=64)
FAULTS: dict[str | Fault, float] = {
    "busy_503": 0.06,
    RATE_429: 0.03,
    "keepalive_then_json": 0.04,
    "empty_200": 0.02,
    "cut_rst": 0.02,
    "hang": 0.004,
}
"""Share of the requests that the simulated server treats badly, by the name of the fault."""

_IN_WORDS: dict[str | Fault, str] = {
    "busy_503": "refused: server too busy (503)",
    RATE_429: "refused: too many in flight (429)",
    "keepalive_then_json": "made to wait, kept alive by blank lines or comments",
    "empty_200": "an empty 200",
    "cut_rst": "cut in the middle of the answer (connection reset)",
    "hang": "accepted and never answered",
}


class CreditRisk(pydantic.BaseModel):
    """What is asked about each applicant."""

    risk: Literal["low", "medium", "high"]
    score: int = pydantic.Field(ge=0, le=100)
    reason: str = pydantic.Field(max_length=200)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the job runs."""

    client: Client
    sandbox: Sandbox | None


def applicants(rows: int | None = None) -> pd.DataFrame:
    """German credit: 1,000 applicants of the 1970s, 20 attributes in words (H. Hofmann, UCI, CC BY 4.0).

    ``rows`` takes the first so many. The frame's index is the applicant's number.
    """
    frame = pd.read_csv(io.StringIO(read_text("german_credit.csv")), keep_default_na=False)
    frame.index = pd.Index(frame["applicant_id"], name="applicant_id")
    return frame if rows is None else frame.head(rows)


def template(frame: pd.DataFrame) -> str:
    """One line for each attribute that may be asked about, protected ones left out."""
    asked = [name for name in frame.columns if name not in PROTECTED + NOT_ASKED]
    return "\n".join(f"{name}: {{{{{name}}}}}" for name in asked)


def run_demo(
    *,
    rows: int | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    model: str | None = None,
    job: str = JOB,
    budget_usd: float | None = None,
    data_dir: str | None = None,
    faults: bool = True,
) -> int:
    """Score the applicants and print what happened; gives the exit status (0: no row lost).

    Without ``base_url`` and ``api_key`` a simulated server is started that treats 17 % of the
    requests badly; with them the same job runs on the real service and costs about 10 cents.
    """
    frame = applicants(rows)
    options = {"model": model, "data_dir": data_dir, "base_url": base_url, "api_key": api_key}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if base_url is None and api_key is None:
        script = FaultScript.weights(FAULTS, seed=SEED) if faults else None
        with Sandbox(
            faults=script, first_token_s=0.1, token_s=0.002, spread=0.5, balance_usd=None
        ) as sandbox:
            given |= {"base_url": sandbox.base_url, "api_key": sandbox.api_key, "route": "sandbox"}
            # patience for a machine that answers in a blink: a silent connection is given up sooner
            with Client(silence_timeout_s=3, **given) as client:
                return _score(Target(client, sandbox), frame, job, budget_usd, script is not None)
    with Client(**given) as client:
        return _score(Target(client, None), frame, job, budget_usd, False)


def _score(target: Target, frame: pd.DataFrame, job: str, budget_usd: float | None, faulty: bool) -> int:
    _introduce(target, frame, faulty)
    scored = apply(
        frame,
        template(frame),
        schema=CreditRisk,
        system=SYSTEM,
        temperature=0,
        max_tokens=256,
        job=job,
        budget_usd=budget_usd,
        client=target.client,
    )
    shown = frame[["purpose", "credit_amount", "duration_in_month"]].join(scored)
    columns = ["purpose", "credit_amount", "risk", "score", "status", "attempts", "cost_usd", "latency_s"]
    print()
    print(shown[columns].head(8).to_string(float_format=lambda x: f"{x:.6f}" if x < 0.01 else f"{x:.2f}"))
    return _report(target, scored)


def _introduce(target: Target, frame: pd.DataFrame, faulty: bool) -> None:
    print(
        f"{len(frame):,} applicants of German credit (H. Hofmann, UCI, CC BY 4.0), "
        f"{len(frame.columns) - len(PROTECTED + NOT_ASKED)} attributes each."
    )
    print(f"Left out of the prompt: {', '.join(PROTECTED)}.")
    if target.sandbox is None:
        print(f"Asking {target.client.settings.base_url}, model {target.client.settings.model}.")
    else:
        print(
            "Asking a SIMULATED DeepSeek server on this machine: its answers come from simple rules "
            "and mean nothing."
        )
        if faulty:
            print("It misbehaves on purpose, in this share of the requests:")
            for name, share in FAULTS.items():
                print(f"  {share:6.1%}  {_IN_WORDS[name]}")
    print(f"Answers are kept in {target.client.settings.data_dir}", flush=True)


def _report(target: Target, scored: pd.DataFrame) -> int:
    about = scored.attrs["deepseek_nb"]
    counts = scored["status"].value_counts()
    done, failed, pending = (int(counts.get(name, 0)) for name in ("done", "failed", "pending"))
    simulated = " (simulated)" if target.sandbox is not None else ""
    print()
    print(f"Rows      {done:,} done, {failed:,} failed, {pending:,} pending")
    print(f"Requests  {about['requests']:,} sent, {about['refusals']:,} of them refused and asked again")
    if about["already_done"]:
        print(f"          {about['already_done']:,} rows were done before: nothing was sent for them")
    survived = _survived(target, about)
    if survived:
        print("Survived  " + ", ".join(f"{count:,} x {name}" for name, count in survived))
    tokens = int(scored["tokens"].sum())
    print(
        f"Bill      ${about['run_cost_usd']:.4f} this time, ${about['job_cost_usd']:.4f} for the job"
        f"{simulated}; {tokens:,} tokens"
    )
    if target.sandbox is not None:
        print(
            f"          the server charged ${target.sandbox.log.cost_usd:.4f} this time; "
            f"{_hour(target.client.settings.model)}"
        )
        if about["run_cost_usd"] > target.sandbox.log.cost_usd + 1e-9:
            print("          (what broke off is booked as if it was charged: the service does not say)")
        twice = sum(target.sandbox.log.answered_twice().values())
        print(f"          {twice} questions were answered, and paid, twice")
    lost = len(scored) - done - failed - pending
    print(
        f"\n{lost + failed + pending} rows lost"
        + (f", see the error column: {_first_error(scored)}" if failed else "")
    )
    return 0 if done == len(scored) else 1


def _survived(target: Target, about: dict[str, object]) -> Sequence[tuple[str, int]]:
    if target.sandbox is not None:
        return target.sandbox.log.faults().most_common()
    faults = about["faults"]
    return list(faults.items()) if isinstance(faults, dict) else []


def _hour(model: str) -> str:
    table = PriceTable.from_data(read_json("prices.json"), read_json("holidays_cn.json"))
    price = table.find(model, pd.Timestamp.now(tz="UTC").to_pydatetime())
    if price is None:
        return "no price is known for this model"
    return "peak price" if price.peak else "off-peak price"


def _first_error(scored: pd.DataFrame) -> str:
    return str(scored.loc[scored["status"] == "failed", "error"].iloc[0])
