"""A client's idle connection is not closed under it."""

from __future__ import annotations

import http.client
import time

IDLE_S = 6.0
"""Longer than the server's own default of 5 s, shorter than clients hold a connection (aiohttp: 15 s)."""


def test_a_connection_that_was_idle_takes_the_next_question(gateway):
    """Closed after 5 s it would break a POST that comes at that moment, and a POST is not sent again."""
    host, port = gateway.base_url.removeprefix("http://").split(":")
    line = http.client.HTTPConnection(host, int(port), timeout=10)
    for wait_s in (0.0, IDLE_S):
        time.sleep(wait_s)
        line.auto_open = wait_s == 0  # the second request may not open another connection
        line.request("GET", "/healthz")
        assert line.getresponse().read() == b'{"status":"ok"}'
    line.close()
