"""Text that the terminal's encoding lacks, and streams that were closed, end no command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import sys
from eztinker.standard_streams import make_output_safe
make_output_safe()
print("caf\\u00e9 \\u2014 \\U0001f600")
sys.stderr.write("done")
"""
C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize(
    ("settings", "printed"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, b"caf\xe9 ? ?\n"),
        ({"PYTHONIOENCODING": "ascii:strict"}, b"caf? ? ?\n"),
        (C_LOCALE, b"caf? ? ?\n"),
        ({"PYTHONIOENCODING": "utf-8"}, "café — \U0001f600\n".encode()),
    ],
    ids=["Latin-1", "ASCII", "C locale", "UTF-8"],
)
def test_characters_are_replaced_where_they_must_be(settings: dict[str, str], printed: bytes):
    done = subprocess.run([sys.executable, "-c", CODE], env=os.environ | settings, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (printed, b"done")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_take_everything(closed: str):
    command = f'exec "$0" -c "$1" {closed}'
    done = subprocess.run(["/bin/sh", "-c", command, sys.executable, CODE], capture_output=True)
    assert done.returncode == 0
