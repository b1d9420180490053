"""The dashboard shows what all kernels have spent of a day; its alarm follows the fullest cap."""

from __future__ import annotations

import pytest

from deepseek_nb.client.portal import background
from deepseek_nb.client.sync import Client
from deepseek_nb.core.alarms import Thresholds
from deepseek_nb.notebook.standing import plots_html, standing_of, table_html
from deepseek_nb.sandbox import Sandbox


def test_the_day_of_all_kernels_is_shown(tmp_path):
    with Sandbox(count="estimate", time_scale=100) as server:
        settings = {"base_url": server.base_url, "api_key": server.api_key, "data_dir": tmp_path}
        with Client(**settings, budget_day_usd=9.0) as other:
            cost_usd = other.ask("Why is the sky blue?", max_tokens=50).cost_usd
        with Client(**settings, budget_day_usd=3.0, budget_usd=5.0) as client:
            now = background.start(standing_of, client).result(10)
            assert now.caps == {"day": (pytest.approx(cost_usd), 3.0)}
            assert now.budget_share == pytest.approx(cost_usd / 3.0)
            assert f"${cost_usd:,.4f} of $3.00 this day" in table_html(now, ())
            assert plots_html(now, Thresholds())
        with Client(**settings) as without:
            assert background.start(standing_of, without).result(10).budget_share is None
