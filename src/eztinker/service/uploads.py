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
from eztinker.checkpoints.incoming import receive_file
from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.errors import InvalidInput, NotFound
from eztinker.oplog import uploads
from eztinker.oplog.rows import Upload
from eztinker.oplog.store import Store
from eztinker.service.access import owned
from eztinker.service.adapters import Adapters
from eztinker.service.clock import Clock
from eztinker.service.signed_links import LIFETIME
from eztinker.service.validation import check_lora, check_text
from eztinker.types import LoraSpec

log = logging.getLogger(__name__)

MAX_BYTES = {CONFIG: 1 << 20, WEIGHTS: 512 << 20}
"""Of each file; an adapter of rank 64 on every weight of a model of 3 billion parameters has 400 MB."""
MAX_UNFINISHED = 4
"""Uploads of one owner that wait for files, which bounds what they take on the disk."""
CHECKPOINT_NAME = "uploaded"


class Uploads:
    def __init__(self, store: Store, catalog: Catalog, adapters: Adapters, root: Path, clock: Clock) -> None:
        """Args: root: where the files that have come wait for the others."""
        self._store = store
        self._catalog = catalog
        self._adapters = adapters
        self._root = root
        self._clock = clock
        self._finishing = asyncio.Lock()
        """Keeps one adapter at a time in memory, and lets a repeat of a request wait for the first one's answer."""

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
            NotFound: the upload is over, or takes no such file.
            TooLarge: the file is larger than it may be.
            DiskFull, DiskBroken: the disk refused it.
        """
        upload = self._waiting(await self._store.read(lambda db: uploads.get(db, upload_id)))
        if file_name not in MAX_BYTES:
            raise NotFound(f"An upload takes {' and '.join(MAX_BYTES)}")
        directory = self._root / upload.upload_id
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await receive_file(directory / file_name, stream, max_bytes=MAX_BYTES[file_name])

    async def finish(self, owner: str, upload_id: str) -> str:
        """Make a checkpoint of the files and give its path; a repeat gives the same. Bad files may be sent again.

        Raises:
            InvalidInput, Unsupported: a file is missing, or they do not hold a plain LoRA as it was announced.
            DiskFull, DiskBroken: the disk refused it.
        """
        async with self._finishing:
            upload = owned(await self._store.read(lambda db: uploads.get(db, upload_id)), owner, "upload")
            if upload.tinker_path is not None:
                return upload.tinker_path
            self._waiting(upload)
            imported = await self._adapters.import_folder(
                owner,
                await asyncio.to_thread(_content, self._root / upload.upload_id),
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
                also=lambda db, path: uploads.finish(db, upload_id, path),
            )
        if imported.doubt is not None:
            log.warning("%s: %s", imported.path, imported.doubt, extra={"event": "adapter_in_doubt"})
        return imported.path

    async def expire(self) -> None:
        """Forget uploads whose time is over, and remove the files of all that wait for none."""
        now = self._clock.now()
        await self._store.write(lambda db: uploads.expire(db, now))
        if self._root.is_dir() and any(self._root.iterdir()):
            waiting = await self._store.read(uploads.waiting_ids)
            await asyncio.to_thread(self._remove_all_but, waiting)

    def _remove_all_but(self, waiting: set[str]) -> None:
        for directory in self._root.iterdir():
            if directory.name not in waiting:
                shutil.rmtree(directory, ignore_errors=True)  # what the disk refuses is tried again

    def _waiting(self, upload: Upload | None) -> Upload:
        """`upload`, if files may come."""
        if upload is None or upload.tinker_path is not None or upload.expires_at <= self._clock.now():
            raise NotFound("This upload is finished or has expired; start another one")
        return upload


def _add(db: Connection, upload: Upload, now: datetime) -> None:
    unfinished = [each for each in uploads.unfinished(db, upload.owner) if each.expires_at > now]
    if len(unfinished) >= MAX_UNFINISHED:
        raise InvalidInput(
            f"{len(unfinished)} uploads of yours wait for files already; finish one, or wait until the first expires, "
            f"at {unfinished[0].expires_at.isoformat(timespec='seconds')}"
        )
    uploads.add(db, upload)


def _content(directory: Path) -> dict[str, bytes]:
    if missing := [name for name in MAX_BYTES if not (directory / name).is_file()]:
        raise InvalidInput(f"The upload lacks {' and '.join(missing)}; PUT it to its URL, then finish again")
    return {name: (directory / name).read_bytes() for name in MAX_BYTES}
