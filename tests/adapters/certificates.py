"""Certificates for servers of a test's own, made by the ``openssl`` command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, good for a day, and its key: two files in ``folder``."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    pem, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext"
    where = ["-keyout", str(key), "-out", str(pem)]
    subprocess.run([*command.split(), "subjectAltName=IP:127.0.0.1", *where], check=True, capture_output=True)
    return pem, key
