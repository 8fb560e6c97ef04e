"""Files of the data directory that their owner alone may read, replaced as a whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from eztinker.errors import ConfigError
from eztinker.flushing import flush
from eztinker.paths import file_in_the_way


def read_private(path: Path) -> str | None:
    """Read a file that only its owner may read; None if there is no such file.

    Raises:
        ConfigError: other users can read it, or this one cannot, or its directory is a file.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        if (file := file_in_the_way(path.parent)) is not None:
            raise ConfigError(f"{file} is a file, not a data directory; name another with --data-dir") from error
        raise ConfigError(f"The key file {path} cannot be read ({error.strerror}); run as its owner") from error
    if mode & 0o077:
        raise ConfigError(f"The key file {path} is open to other users (mode {mode:03o}); run: chmod 600 {path}")
    return text


def write_private(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, atomically and durably, readable by its owner alone.

    Raises:
        ConfigError: the disk refuses it; what was there before is there still.
    """
    aside = path.with_name(f"{path.name}.tmp")
    try:
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
        flush(aside)
        aside.replace(path)
        flush(path.parent)
    except OSError as error:
        raise ConfigError(
            f"The key file {path} cannot be written ({error.strerror}); see that its directory can be, and has room"
        ) from error
