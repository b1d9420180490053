"""What each tenant has spent and may spend in a day, kept on disk beside the other spending."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime

from deepseek_nb.adapters.settings import Settings
from deepseek_nb.adapters.spending import SPENDING_FILE, Spending
from deepseek_nb.core.accounts import UNITS_PER_USD, Account
from deepseek_nb.core.budget import Around, Budget
from deepseek_nb.core.caps import Caps, starts_anew
from deepseek_nb.core.errors import StoreFailed
from deepseek_nb.gateway.config import Tenant

__all__ = ["Purse", "Standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a tenant's day stands. US dollars; what was perhaps charged is included."""

    spent_usd: float
    limit_usd: float | None
    starts_anew: date

    @property
    def left_usd(self) -> float | None:
        """What is left of the day; None without a limit."""
        return None if self.limit_usd is None else max(0.0, self.limit_usd - self.spent_usd)


class Purse:
    """One tenant's daily budget, inside the gateway's own.

    A request has to fit in both; what it costs is booked in both. Days are those of this machine's
    calendar. Also without a limit, what is spent is written down.
    """

    def __init__(
        self, tenant: Tenant, settings: Settings, around: Around, now_utc: Callable[[], datetime]
    ) -> None:
        self._tenant = tenant
        self._spending = Spending(settings.data_dir / SPENDING_FILE, f"gateway tenant {tenant.name}")
        self._now_utc = now_utc
        caps = Caps(self._spending, day_usd=tenant.budget_day_usd, today=self._today)
        self.cap_name = f"daily budget of {tenant.name}"
        """What errors call the tenant's own limit."""
        self._caps = caps
        self.budget = Budget(None, parent=_Both(caps, around, self.cap_name), name=f"tenant {tenant.name}")

    def _today(self) -> date:
        return self._now_utc().astimezone().date()

    def standing(self) -> Standing:
        """How the day stands. Looks into the file; raises StoreFailed."""
        today = self._today()
        spent_usd = sum(self._spending.spent(today.isoformat()))
        for account in self._caps.accounts:
            if getattr(account, "period", None) == today.isoformat():
                spent_usd += getattr(account, "unbooked", 0) / UNITS_PER_USD
        return Standing(spent_usd, self._tenant.budget_day_usd, starts_anew("day", today))

    def standing_or_none(self) -> Standing | None:
        """The same, or None where the file cannot be used now."""
        try:
            return self.standing()
        except StoreFailed:
            return None

    def close(self) -> None:
        """Close the file."""
        self._spending.close()


class _Both:
    """A tenant's limits and, around them, the gateway's own."""

    def __init__(self, caps: Caps, around: Around, name: str) -> None:
        self._caps = caps
        self._around = around
        self._name = name

    @property
    def accounts(self) -> tuple[Account, ...]:
        """The sums of both."""
        for account in self._caps.accounts:
            if account.limit is not None:
                account.name = self._name  # a new day is a new account
        return (*self._caps.accounts, *self._around.accounts)

    def roll(self) -> None:
        """Begin a new day in both."""
        self._caps.roll()
        self._around.roll()
