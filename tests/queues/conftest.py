"""A sandbox, a submitter, real workers in processes of their own, and a real RabbitMQ."""

from __future__ import annotations

import pytest
from broker import RabbitMQ, command
from queue_bench import Bench

from deepseek_nb.sandbox import Sandbox


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory):
    """One broker for all tests."""
    if command() is None:
        pytest.skip("rabbitmq-server is not installed")
    broker = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def sandbox():
    """A server that takes a moment for each answer."""
    with Sandbox(balance_usd=None, count="estimate", first_token_s=0.03) as running:
        yield running


@pytest.fixture(params=["ledger", "rabbitmq"])
def bench(request, sandbox, tmp_path):
    """The same verbs on both queues."""
    queue = "ledger"
    if request.param == "rabbitmq":
        queue = request.getfixturevalue("rabbitmq").url
    made = Bench(request.param, queue, sandbox, tmp_path)
    yield made
    made.close()


@pytest.fixture
def far(rabbitmq, sandbox, tmp_path):
    """A bench on the RabbitMQ."""
    made = Bench("rabbitmq", rabbitmq.url, sandbox, tmp_path)
    yield made
    made.close()
