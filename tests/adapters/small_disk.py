"""A disk of one megabyte for the tests of a full one; skipped, loudly, where mounting is not allowed."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, size="1m"):
    """A tmpfs of that size at ``folder``."""
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("DISK FULL NOT TESTED: there is no mount command")
    if done.returncode:
        pytest.skip(f"DISK FULL NOT TESTED: mounting is not allowed here ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
