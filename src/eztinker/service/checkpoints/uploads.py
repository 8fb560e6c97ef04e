"""Adapters that come file by file, to links that need no key, and become checkpoints when all files are there."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from eztinker.base_models.catalog import Catalog
from eztinker.checkpoints.disk import disk_error
from eztinker.checkpoints.incoming import receive_file
from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.errors import InvalidInput, NotFound, QueueFull
from eztinker.oplog import uploads
from eztinker.oplog.rows import Upload
from eztinker.oplog.store import Store
from eztinker.service.accounts.access import owned
from eztinker.service.accounts.fair_share import Room
from eztinker.service.accounts.signed_links import LIFETIME
from eztinker.service.checkpoints.adapters import Adapters, Imported
from eztinker.service.clock import Clock
from eztinker.service.validation import check_lora, check_text
from eztinker.types import LoraSpec

log = logging.getLogger(__name__)

MAX_BYTES = {CONFIG: 1 << 20, WEIGHTS: 512 << 20}
"""Most bytes of a file; an adapter of rank 64 on every weight of a model of 3 billion parameters has 400 MB."""
MAX_UNFINISHED = 4
"""Most uploads of one owner that wait for files, which bounds what they take on the disk."""
MAX_RECEIVING = 16
"""Files that may come at a time, shared between owners; each may take its size once more on the disk."""
CHECKPOINT_NAME = "uploaded"


class Uploads:
    def __init__(self, store: Store, catalog: Catalog, adapters: Adapters, root: Path, clock: Clock) -> None:
        """Keep files that have come below `root` until the others are there."""
        self._store = store
        self._catalog = catalog
        self._adapters = adapters
        self._root = root
        self._clock = clock
        self._finishing: set[str] = set()
        """Owners whose upload is becoming a checkpoint."""
        self._room = Room(MAX_RECEIVING, "files on their way")
        self._receiving: dict[tuple[str, str], asyncio.Timeout] = {}
        """Events that end the receiving of a file, by upload and name."""

    async def start(self, owner: str, *, base_model: str, lora: LoraSpec, project_id: str | None) -> Upload:
        """Take the files of an adapter of this shape for this base model, until the upload expires.

        Raises:
            InvalidInput: the shape is impossible, or too many uploads of the owner's wait for files.
            ModelNotServed: the base model is not served.
        """
        check_text(project_id, field="destination_project_id")
        now = self._clock.now()
        upload = Upload(
            upload_id=f"upload-{secrets.token_hex(16)}",
            owner=owner,
            base_model=self._catalog.get(base_model).name,
            rank=check_lora(lora).rank,
            train_attn=lora.train_attn,
            train_mlp=lora.train_mlp,
            train_unembed=lora.train_unembed,
            project_id=project_id,
            created_at=now,
            expires_at=now + LIFETIME,
        )
        await self._store.write(lambda db: _add(db, upload, now))
        return upload

    async def receive(self, upload_id: str, file_name: str, stream: AsyncIterator[bytes]) -> None:
        """Keep one file, in place of what came under its name before.

        Raises:
            NotFound: the upload is over, maybe since its file began to come, or takes no such file.
            QueueFull: this file comes already, or too many do.
            TooLarge: the file is larger than it may be.
            DiskFull, DiskBroken: the disk refused it.
        """
        if file_name not in MAX_BYTES:
            raise NotFound(f"An upload takes {' and '.join(MAX_BYTES)}")
        if (upload_id, file_name) in self._receiving:
            raise QueueFull(f"{file_name} of this upload comes in another request; send it again when that has ended")
        until_over = asyncio.timeout(None)
        try:
            async with until_over:
                self._receiving[upload_id, file_name] = until_over  # before the look, which an end may follow
                upload = self._waiting(await self._store.read(lambda db: uploads.get(db, upload_id)))
                with self._room.held(upload.owner):
                    await receive_file(self._root / upload_id / file_name, stream, max_bytes=MAX_BYTES[file_name])
        except TimeoutError:
            if not until_over.expired():
                raise
            raise _is_over() from None
        finally:
            del self._receiving[upload_id, file_name]

    async def finish(self, owner: str, upload_id: str) -> str:
        """Make a checkpoint of the files and give its path; a repeat gives the same. Bad files may be sent again.

        Raises:
            QueueFull: an upload of the owner's is being finished.
            InvalidInput, Unsupported: a file is missing, or they do not hold a plain LoRA as it was announced.
            DiskFull, DiskBroken: the disk refused it.
        """
        if owner in self._finishing:  # before the look, so that what two requests name becomes one checkpoint
            raise QueueFull("An upload of yours is being finished; try again in a moment")
        self._finishing.add(owner)
        try:
            upload = owned(await self._store.read(lambda db: uploads.get(db, upload_id)), owner, "upload")
            if upload.tinker_path is not None:
                return upload.tinker_path
            imported = await self._import(self._waiting(upload))
        finally:
            self._finishing.remove(owner)
        self._end_receiving({upload_id})
        if imported.warning is not None:
            log.warning("%s: %s", imported.path, imported.warning, extra={"event": "adapter_in_doubt"})
        return imported.path

    async def expire(self) -> None:
        """Forget expired uploads, and remove the files of those that wait for no more."""
        now = self._clock.now()
        await self._store.write(lambda db: uploads.expire(db, now))
        # First what is there: a folder is made after its upload began, so one that is not waiting is over.
        there = await asyncio.to_thread(self._directories)
        if there or self._receiving:
            waiting = await self._store.read(uploads.waiting_ids)
            self._end_receiving({upload_id for upload_id, _ in self._receiving} - waiting)
            await asyncio.to_thread(_remove, [each for each in there if each.name not in waiting])

    def _directories(self) -> list[Path]:
        return list(self._root.iterdir()) if self._root.is_dir() else []

    def _end_receiving(self, upload_ids: set[str]) -> None:
        for (upload_id, _), until_over in self._receiving.items():
            if upload_id in upload_ids and not until_over.expired():
                until_over.reschedule(asyncio.get_running_loop().time())

    async def _import(self, upload: Upload) -> Imported:
        return await self._adapters.import_folder(
            upload.owner,
            lambda: _content(self._root / upload.upload_id),
            base_model=upload.base_model,
            name=CHECKPOINT_NAME,
            project_id=upload.project_id,
            expected=LoraSpec(
                rank=upload.rank,
                seed=0,
                train_attn=upload.train_attn,
                train_mlp=upload.train_mlp,
                train_unembed=upload.train_unembed,
            ),
            also=lambda db, path: uploads.finish(db, upload.upload_id, path),
        )

    def _waiting(self, upload: Upload | None) -> Upload:
        """Check that files may still come for an upload."""
        if upload is None or upload.tinker_path is not None or upload.expires_at <= self._clock.now():
            raise _is_over()
        return upload


def _is_over() -> NotFound:
    return NotFound("This upload is finished or has expired; start another one")


def _remove(directories: list[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)  # what the disk refuses is tried again


def _add(db: Connection, upload: Upload, now: datetime) -> None:
    unfinished = [each for each in uploads.unfinished(db, upload.owner) if each.expires_at > now]
    if len(unfinished) >= MAX_UNFINISHED:
        raise InvalidInput(
            f"{len(unfinished)} uploads of yours wait for files already; finish one, or wait until the first expires, "
            f"at {unfinished[0].expires_at.isoformat(timespec='seconds')}"
        )
    uploads.add(db, upload)


def _content(directory: Path) -> dict[str, bytes]:
    try:
        if missing := [name for name in MAX_BYTES if not (directory / name).is_file()]:
            raise InvalidInput(f"The upload lacks {' and '.join(missing)}; PUT it to its URL, then finish again")
        return {name: (directory / name).read_bytes() for name in MAX_BYTES}
    except OSError as error:
        raise disk_error(error, directory.parent, 0, 0) from error
