"""The data directory of a server: where it is, who owns it, and what a running server leaves there for local tools.

eztinker.toml   settings, optional
api_key         the generated key, readable by its owner alone
server.json     address and process id of the server that runs now
server.lock     locked for as long as a server runs, as the directory itself is
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from eztinker.errors import ConfigError
from eztinker.paths import file_in_the_way
from eztinker.settings.home import expanded, home_directory

SETTINGS_FILE = "eztinker.toml"
SERVER_FILE = "server.json"
LOCK_FILE = "server.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningServer:
    """Contents of `server.json`. A server killed hard leaves it behind, so only an answer proves that one runs."""

    url: str
    pid: int

    @classmethod
    def here(cls, url: str) -> RunningServer:
        """This process, answering at `url`."""
        return cls(url=url, pid=os.getpid())


def default_data_dir() -> Path:
    """~/.eztinker of this user."""
    return home_directory() / ".eztinker"


def local_data_dir() -> Path:
    """The directory a server started here would use: EZTINKER_DATA_DIR, ./eztinker.toml, else ~/.eztinker."""
    if named := os.environ.get("EZTINKER_DATA_DIR"):
        return expanded(named)
    try:
        named = tomllib.loads(Path(SETTINGS_FILE).read_text(encoding="utf-8")).get("data_dir")
    except FileNotFoundError:
        named = None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{SETTINGS_FILE} cannot be read: {error}; correct it or remove it") from error
    return expanded(named) if isinstance(named, str) else default_data_dir()


def make_data_dir(data_dir: Path) -> None:
    """Make `data_dir` if it is absent, and refuse one that other users may change.

    Raises:
        ConfigError: it cannot be made, or belongs or is open to another user.
    """
    with _refusal_of(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_own(data_dir)


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a file; a new one can be read by its owner alone."""
    with _refusal_of(path.parent):
        return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


@contextmanager
def claim(data_dir: Path) -> Iterator[None]:
    """Lock `data_dir` for the length of the block.

    Raises:
        ConfigError: it cannot be written, another server owns it, or another user may change it.
    """
    make_data_dir(data_dir)
    with ExitStack() as held:
        # A lock file can be deleted and made anew beside the lock on the old one; the directory cannot, while its log
        # is in it. Older servers lock the file alone, and so do we where a file system does not lock directories.
        for path, flags in ((data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT), (data_dir, os.O_RDONLY)):
            with _refusal_of(data_dir):
                descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
            held.callback(os.close, descriptor)  # closing drops the lock, as a kill would
            _lock(descriptor, data_dir)
        yield


def _lock(descriptor: int, data_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"{_owner_of(data_dir)}; stop it, or name another directory with --data-dir") from error
    except OSError:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise


@contextmanager
def announced(data_dir: Path, server: RunningServer) -> Iterator[None]:
    """Let local tools find `server` through `data_dir` for the length of the block.

    Raises:
        ConfigError: the disk refuses it.
    """
    path = data_dir / SERVER_FILE
    aside = path.with_suffix(".tmp")
    with _refusal_of(data_dir):
        aside.write_text(json.dumps(asdict(server)), encoding="utf-8")
        aside.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_server(data_dir: Path) -> RunningServer | None:
    """The server that last announced itself in `data_dir`, if its note is there and readable."""
    try:
        note = json.loads((data_dir / SERVER_FILE).read_text(encoding="utf-8"))
        return RunningServer(url=str(note["url"]), pid=int(note["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _require_own(data_dir: Path) -> None:
    """Refuse a data directory that another user owns or may change.

    Whoever may change it can replace the keys and the log. To read its names is harmless: what a server writes there
    only its owner can read.
    """
    status = data_dir.stat()
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"The data directory {data_dir} belongs to another user (id {status.st_uid}); run as its owner, "
            "or name another with --data-dir"
        )
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(
            f"Other users may change the data directory {data_dir} (mode {mode:o}); run: chmod go-w {data_dir}"
        )


@contextmanager
def _refusal_of(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        file = file_in_the_way(data_dir)
        reason = error.strerror if file is None else f"{file} is a file"
        raise ConfigError(
            f"The data directory {data_dir} cannot be written ({reason}); name another with --data-dir"
        ) from error


def _owner_of(data_dir: Path) -> str:
    server = running_server(data_dir)
    who = f"Another server ({server.url}, process {server.pid})" if server else "Another server"
    return f"{who} uses the data directory {data_dir}"
