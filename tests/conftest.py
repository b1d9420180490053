"""What holds for every test: nobody's settings in the environment, and no skip that CI does not forgive."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import settings
from redis_server import RedisServer, TlsRedis

settings.register_profile("untimed", deadline=None)  # how fast the machine is, is no test
settings.load_profile("untimed")

FORGIVEN = ("only root can", "is not allowed here")
"""What even CI may skip: the account or the container forbids it, and no package would help."""

_numbers = itertools.count(1)


def _clean(patch: pytest.MonkeyPatch, folder: os.PathLike[str]) -> None:
    """No settings of the person who runs the tests: a key among them must never reach a test."""
    for name in [name for name in os.environ if name.startswith("DEEPSEEK_")]:
        patch.delenv(name)
    patch.setenv("DEEPSEEK_NB_PYPROJECT", "off")
    patch.setenv("DEEPSEEK_NB_DATA_DIR", os.fspath(folder))
    patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")


@pytest.fixture(scope="session", autouse=True)
def _clean_session(tmp_path_factory):
    """Fixtures that live longer than one test start in a clean environment too."""
    with pytest.MonkeyPatch.context() as patch:
        _clean(patch, tmp_path_factory.mktemp("data-of-the-session"))
        yield


@pytest.fixture(autouse=True)
def _clean_environment(_clean_session, monkeypatch, tmp_path_factory):
    """Each test has no settings but its own, and its own folder for answers and jobs (made when used)."""
    _clean(monkeypatch, tmp_path_factory.getbasetemp() / f"data-{next(_numbers)}")


@pytest.fixture
def redis_server():
    """A real Redis of the test's own, which it may kill or freeze."""
    server = RedisServer().start()
    yield server
    server.close()


@pytest.fixture
def tls_redis(tmp_path):
    """A real Redis with a certificate that nobody trusts of itself."""
    made = TlsRedis(tmp_path)
    made.server.start()
    yield made
    made.server.close()


def _on_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def _refuse_skip(report):
    """On CI a skip is a failure: a missing tool is to be installed, not to be passed over."""
    if not (_on_ci() and report.skipped) or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(forgiven in reason for forgiven in FORGIVEN):
        report.outcome = "failed"
        report.longrepr = f"{reason}\n(skipped, and CI is set: install what is missing)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _refuse_skip((yield))
