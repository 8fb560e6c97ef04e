"""What a server and the command line do to a disk, each deed in a process of its own that may be killed in the middle.

`python -m tests.faulty_disk.deeds BASE_MODEL_DIRECTORY` reads lines `DEED DIRECTORY`, does each in a fork of itself and
answers with one line of JSON: how the fork ended, and the code and sentence of the error if there was one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from eztinker.base_models.base_model import read_base_model
from eztinker.base_models.catalog import Catalog
from eztinker.checkpoints.checkpoint_files import ADAPTER_PART, OPTIMIZER_PART, tensors_part, write_checkpoint
from eztinker.checkpoints.peft import peft_parts
from eztinker.checkpoints.peft_archive import pack
from eztinker.cli.export import Dtype, merge, write_peft
from eztinker.errors import EZTinkerError
from eztinker.model_files.folder import read_model_folder
from eztinker.oplog import checkpoints, models, snapshots
from eztinker.oplog.rows import Checkpoint, Model, Snapshot
from eztinker.oplog.store import Store
from eztinker.service.checkpoints import collector
from eztinker.service.checkpoints.adapters import Adapters
from eztinker.service.checkpoints.changes import CheckpointChanges
from eztinker.service.checkpoints.checkpoints import Checkpoints, tinker_path
from eztinker.service.checkpoints.collector import CheckpointCollector
from eztinker.service.checkpoints.copies import CheckpointCopies, CopyTarget
from eztinker.service.clock import Clock
from eztinker.service.execution.snapshots import Snapshots
from eztinker.service.sessions.sessions import SessionRequest, Sessions
from eztinker.types import CheckpointKind, LoraSpec, Page

OWNER = "local"
LORA = LoraSpec(rank=2, seed=0, train_mlp=False, train_unembed=False)
RUN = "run:train:0"
OLD, DOOMED, NEW, COPY = "old", "doomed", "new", "copy"


class Disk:
    """A data directory with the services over it."""

    def __init__(self, directory: Path, base_model: Path) -> None:
        self.root = directory / "checkpoints"
        self.snapshots_root = directory / "snapshots"
        for each in (self.root, self.snapshots_root):
            each.mkdir(exist_ok=True)
        clock = Clock()
        self.base_model = base_model
        self.store = Store(directory / "oplog.sqlite3")
        self.saved = Checkpoints(self.store, self.root, clock)
        self.sessions = Sessions(self.store, clock, timeout_seconds=900)
        self.copies = CheckpointCopies(self.store, self.saved, self.sessions, clock)
        self.changes = CheckpointChanges(self.store, self.saved, clock)
        self.collector = CheckpointCollector(self.store, self.root, clock)
        self.snapshots = Snapshots(self.store, self.snapshots_root, clock, max_changes=1, max_seconds=1)
        catalog = Catalog([read_base_model("tiny", base_model)])
        self.adapters = Adapters(self.store, catalog, self.sessions, self.saved, clock)

    def close(self) -> None:
        self.store.close()

    async def prepare(self) -> None:
        """A run with two checkpoints, a copy that shares the files of the second, and two snapshots, one unused."""
        request = SessionRequest(tags=[], user_metadata={}, sdk_version="", project_id=None, display_name=None)
        session = await self.sessions.create(OWNER, request, idempotency_key=None)
        await self.store.write(lambda db: models.add(db, _model(session.session_id)))
        for name in (OLD, DOOMED):
            await self.save(name)
        await self.copies.copy(
            OWNER, path(DOOMED), _project("copies"), ttl_seconds=None, lender=None, idempotency_key=None
        )
        for name in ("kept", "forgotten"):
            write(self.snapshots_root / name)
        kept = Snapshot(
            snapshot_id="kept", owner=OWNER, model_id=RUN, seq_id=1, size_bytes=1, created_at=datetime.now(UTC)
        )
        await self.store.write(lambda db: snapshots.add(db, kept))

    async def save(self, name: str = NEW) -> None:
        """As the engine writes it and the server then lists it."""
        row = _checkpoint(self.saved.new_id(), name)
        await asyncio.to_thread(write, self.saved.directory(row.checkpoint_id))
        await self.store.write(lambda db: checkpoints.add(db, row, overwrite=False))

    async def overwrite(self) -> None:
        row = _checkpoint(self.saved.new_id(), OLD)
        await asyncio.to_thread(write, self.saved.directory(row.checkpoint_id))
        await self.store.write(lambda db: checkpoints.add(db, row, overwrite=True))

    async def copy(self) -> None:
        await self.copies.copy(OWNER, path(OLD), _project(COPY), ttl_seconds=None, lender=None, idempotency_key=None)

    async def bring_in(self) -> None:
        archive = pack(adapter_parts(self.base_model))
        await self.adapters.import_archive(OWNER, archive, base_model="tiny", name=NEW)

    async def collect(self) -> None:
        """Everything that removes files: a deletion, an end of life, unused snapshots, and leftovers."""
        collector.REMOVAL_DELAY = timedelta(0)
        await self.changes.delete(OWNER, path(DOOMED))
        await self.collector.expire()
        await self.collector.remove_directories()
        await self.snapshots.sweep()
        await self.collector.collect_leftovers()

    async def list(self) -> list[Checkpoint]:
        rows, _ = await self.saved.of_owner(OWNER, Page(offset=0, limit=100))
        return rows


def export_peft(directory: Path, base_model: Path) -> None:
    write_peft(adapter_parts(base_model), directory / "peft")


def export_merged(directory: Path, base_model: Path) -> None:
    merge(adapter_parts(base_model), base_model, directory / "merged", Dtype.FLOAT32)


def path(name: str) -> str:
    return tinker_path(_checkpoint("", name))


def write(directory: Path) -> None:
    write_checkpoint(
        directory,
        {part: tensors_part({"a": np.arange(3000, dtype=np.float32)}) for part in (ADAPTER_PART, OPTIMIZER_PART)},
        tinker_path=path(NEW),
        kind=CheckpointKind.TRAINING,
        base_model="tiny",
        lora=LORA,
        step=1,
    )


def adapter_parts(base_model: Path) -> dict[str, bytes]:
    """A PEFT folder that fits the base model."""
    model = read_model_folder(base_model, "tiny")
    arrays = {}
    for name, shape in model.shapes.items():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")):
            module = name.removesuffix(".weight")
            arrays[f"{module}.lora_A.weight"] = np.ones((LORA.rank, shape[1]), np.float32)
            arrays[f"{module}.lora_B.weight"] = np.ones((shape[0], LORA.rank), np.float32)
    return peft_parts(arrays, LORA, "tiny", head_is_tied=model.head_is_tied)


def _model(session_id: str) -> Model:
    now = datetime.now(UTC)
    return Model(
        model_id=RUN,
        owner=OWNER,
        session_id=session_id,
        base_model="tiny",
        rank=LORA.rank,
        train_attn=True,
        train_mlp=False,
        train_unembed=False,
        user_metadata=None,
        created_at=now,
        last_request_at=now,
    )


def _checkpoint(checkpoint_id: str, name: str) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=checkpoint_id,
        owner=OWNER,
        model_id=RUN,
        kind=CheckpointKind.TRAINING,
        name=name,
        size_bytes=1,
        step=1,
        user_metadata=None,
        created_at=datetime.now(UTC),
        expires_at=None,
    )


def _project(project_id: str) -> CopyTarget:
    return CopyTarget(session_id=None, model_seq_id=None, project_id=project_id)


DEEDS: dict[str, Callable[[Disk], Coroutine[None, None, None]]] = {
    "prepare": Disk.prepare,
    "save": Disk.save,
    "overwrite": Disk.overwrite,
    "copy": Disk.copy,
    "import": Disk.bring_in,
    "collect": Disk.collect,
}
EXPORTS = {"export peft": export_peft, "export merged": export_merged}


def do(deed: str, directory: Path, base_model: Path) -> None:
    if deed in EXPORTS:
        EXPORTS[deed](directory, base_model)
        return
    with closing(Disk(directory, base_model)) as disk:
        asyncio.run(DEEDS[deed](disk))


def in_a_fork(deed: str, directory: Path, base_model: Path) -> dict[str, object]:
    receiver, sender = os.pipe()
    if (child := os.fork()) == 0:
        told = {}
        try:
            do(deed, directory, base_model)
        except EZTinkerError as error:
            told = {"code": error.code, "message": error.message}
        except BaseException as error:
            told = {"code": "UNTOLD", "message": repr(error)}
        os.write(sender, json.dumps(told).encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as stream:
        told = json.loads(stream.read() or b"{}")
    _, status = os.waitpid(child, 0)
    return told | {"exit": os.waitstatus_to_exitcode(status)}


def main() -> None:
    base_model = Path(sys.argv[1])
    for line in sys.stdin:
        deed, directory = line.rstrip("\n").split("\t")
        print(json.dumps(in_a_fork(deed, Path(directory), base_model)), flush=True)


if __name__ == "__main__":
    main()
