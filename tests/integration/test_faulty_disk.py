"""The process dies, or the disk refuses, at any call that changes a file: checkpoints are whole or not there.

Of long deeds every few calls are tried; EZTINKER_TORTURE=full takes every single one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eztinker.checkpoints.checkpoint_files import verify_checkpoint
from eztinker.model_files.folder import read_model_folder
from eztinker.oplog import checkpoints
from tests.faulty_disk.deeds import DOOMED, EXPORTS, NEW, OLD, Disk
from tests.faulty_disk.disk import BROKEN, CHANGES, FULL, GROWTH, KILL, FaultyDisk

CODES = {FULL: {"disk_full", "log_unwritable"}, BROKEN: {"disk_error", "log_unwritable"}}
"""What a client is told. SQLite does not always know that a disk is full."""
EVERY_CALL = os.environ.get("EZTINKER_TORTURE") == "full"
KILLED_STEP: dict[str, int] = dict.fromkeys(("overwrite", "copy", "import", "collect"), 1 if EVERY_CALL else 3)
REFUSED_STEP = 1 if EVERY_CALL else 5
AGAIN_EVERY = 4


class Doer:
    """Does deeds on a faulty disk, each on a fresh copy of the same directory."""

    def __init__(self, work_dir: Path, base_model: Path) -> None:
        self.base_model = base_model
        (work_dir / "disk").mkdir()
        self.disk = FaultyDisk(work_dir / "disk", work_dir)
        self._num_directories = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faulty_disk.deeds", str(base_model)],
            env=os.environ | self.disk.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(work_dir / "errors").open("w"),
            text=True,
        )
        self._prepared = self.disk.root / "prepared"
        self._prepared.mkdir()
        assert self.do("prepare", self._prepared) == {"exit": 0}

    def do(self, deed: str, directory: Path) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{deed}\t{directory}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def fresh(self) -> Path:
        self._num_directories += 1
        return shutil.copytree(self._prepared, self.disk.root / f"{self._num_directories}")

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def doer(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Iterator[Doer]:
    with closing(Doer(tmp_path_factory.mktemp("faulty"), tiny_model("llama", hidden=16))) as doer:
        yield doer


def is_whole_export(folder: Path, base_model: Path) -> bool:
    if folder.name == "peft":
        return {path.name for path in folder.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    names = {path.name for path in base_model.iterdir()}
    merged, base = (read_model_folder(each, "tiny") for each in (folder, base_model))
    return {path.name for path in folder.iterdir()} == names and merged.shapes == base.shapes


def listed_after_a_restart(directory: Path, base_model: Path) -> set[str | None]:
    """Names of the checkpoints that the next server finds; each of them is whole, and nothing else lies there."""

    async def look(disk: Disk) -> set[str | None]:
        await disk.collector.collect_leftovers()
        await disk.snapshots.sweep()
        rows = await disk.list()
        for row in rows:
            verify_checkpoint(disk.root / row.checkpoint_id)
        verify_checkpoint(disk.snapshots_root / "kept")
        assert {path.name for path in disk.snapshots_root.iterdir()} == {"kept"}
        known = await disk.store.read(checkpoints.known_ids)  # one of them may have been deleted a moment ago
        assert {path.name for path in disk.root.iterdir()} <= known
        return {f"{row.name} of {'run' if row.model_id.startswith('run') else 'copy'}" for row in rows}

    with closing(Disk(directory, base_model)) as disk:
        return asyncio.run(look(disk))


BEFORE = {f"{OLD} of run", f"{DOOMED} of run", f"{DOOMED} of copy"}
AFTER = {
    "save": BEFORE | {f"{NEW} of run"},
    "overwrite": BEFORE,
    "copy": BEFORE | {f"{OLD} of copy"},
    "import": BEFORE | {f"{NEW} of copy"},
    "collect": BEFORE - {f"{DOOMED} of run"},
}


def check(doer: Doer, deed: str, directory: Path, *, is_done: bool) -> bool:
    """Whether the disk holds what the deed was to bring about; if not, it is as it was before."""
    if deed in EXPORTS:
        folder = directory / deed.removeprefix("export ")
        there = folder.exists()
        assert not there or is_whole_export(folder, doer.base_model)
    else:
        found = listed_after_a_restart(directory, doer.base_model)
        assert found in (BEFORE, AFTER[deed])
        there = found == AFTER[deed]
    assert there or not is_done
    return there


def at_calls(doer: Doer, deed: str, action: int, classes: int, *, step: int) -> Iterator[dict[str, Any]]:
    """Outcomes of the deed when its first call is struck, one `step` later and so on; each left all or nothing behind.

    Where it left nothing it is done again, on a disk that is well.
    """
    for round_, call in enumerate(range(1, 1000, step)):
        directory = doer.fresh()
        doer.disk.arm(action, classes, at=call)
        outcome = doer.do(deed, directory)
        if not doer.disk.has_struck:
            assert outcome == {"exit": 0}
            assert call > 5
            return
        doer.disk.count(0)
        yield outcome
        if action != KILL:
            assert not list(directory.rglob("*.partial"))
        is_done = outcome == {"exit": 0}
        if not check(doer, deed, directory, is_done=is_done) and round_ % AGAIN_EVERY == 0:
            assert doer.do(deed, directory) == {"exit": 0}
            assert check(doer, deed, directory, is_done=True)
    raise AssertionError("the deed does not end")


@pytest.mark.parametrize("deed", [*AFTER, *EXPORTS])
def test_killed_at_any_call_it_leaves_all_or_nothing_and_can_be_done_again(doer: Doer, deed: str):
    for outcome in at_calls(doer, deed, KILL, CHANGES, step=KILLED_STEP.get(deed, 1)):
        assert outcome == {"exit": -signal.SIGKILL}


@pytest.mark.parametrize("deed", [*AFTER, *EXPORTS])
@pytest.mark.parametrize(("action", "classes"), [(FULL, GROWTH), (BROKEN, CHANGES)], ids=["full", "broken"])
def test_refused_at_any_call_it_fails_with_a_sentence_and_can_be_done_again(
    doer: Doer, deed: str, action: int, classes: int
):
    for outcome in at_calls(doer, deed, action, classes, step=REFUSED_STEP):
        assert outcome["exit"] == 0
        if "code" in outcome:
            assert outcome["code"] in CODES[action], outcome
            assert "check" in outcome["message"].lower() or "free some space" in outcome["message"].lower()
