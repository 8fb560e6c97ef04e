"""Fixtures that several files here share."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.oplog.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite3"


@pytest.fixture
def store(path: Path):
    opened = Store(path)
    yield opened
    opened.close()
