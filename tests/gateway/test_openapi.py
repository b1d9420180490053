"""The description at /openapi.json: it names every route, and nothing that it allows ends in a 500."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .people import new_client
from .test_hostile import token_of

METHODS = ("get", "post", "delete")


def test_every_route_is_described(gateway):
    told = httpx.get(f"{gateway.base_url}/openapi.json", trust_env=False).json()
    assert told["openapi"].startswith("3.1")
    described = {
        (path, method) for path, item in told["paths"].items() for method in item if method in METHODS
    }
    with new_client(gateway) as client:
        for path, method in described:
            filled = re.sub(r"\{\w+\}", "none", path)
            assert client.request(method, filled).status_code not in (405, 500), (path, method)
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in gateway._server.config.app._app.routes
        for method in route.methods
    }
    pages = {path for path, _ in served if path == "/" or path.startswith("/status")} - {"/status.json"}
    assert described == {(path, method) for path, method in served if method != "head" and path not in pages}


@pytest.mark.slow
def test_schemathesis_finds_nothing(serve, tmp_path):
    """What fits the description and what almost does: no 5xx, and every answer as it was described."""
    program = Path(sys.executable).with_name("schemathesis")
    assert program.exists() or shutil.which("schemathesis"), "pip install schemathesis"
    gateway = serve(body_bytes_max=200_000)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = subprocess.run(
        [
            *(program, "run", f"{gateway.base_url}/openapi.json"),
            *("--checks", f"{checks},ignored_auth,unsupported_method"),
            *("--header", f"Authorization: Bearer {token_of('boss', scope='compute metrics admin')}"),
            *("--max-examples", "30", "--seed", "1", "--phases", "examples,coverage,fuzzing,stateful"),
            *("--warnings", "off", "--suppress-health-check", "all"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
