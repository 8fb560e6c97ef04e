"""Home directories, which some users of containers and batch systems do not have, and checks of paths."""

from __future__ import annotations

import os
from pathlib import Path

from eztinker.errors import ConfigError


def home_directory() -> Path:
    """The home directory of this user: HOME, else what the system's list of users says.

    Raises:
        ConfigError: neither names one.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise ConfigError(
            "This user has no home directory (no HOME, no entry in the list of users); set HOME to a directory that "
            "you may write"
        ) from error


def require_utf8(path: Path, what: str) -> Path:
    """Return `path` if it can be written down in a log, a message to the engine or an answer.

    Raises:
        ConfigError: its name is not UTF-8, or this process reads names in an encoding that cannot hold it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{what} has a name that is not UTF-8 here: {os.fsencode(path)!r}; rename it, or, if it is UTF-8, set "
            "PYTHONUTF8=1 and start again"
        ) from error
    return path


def require_directory(path: Path, what: str) -> None:
    """Make sure that `path` is a directory, or can become one because no file is in its way.

    Raises:
        ConfigError: it is a file, or lies under one.
    """
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not nearest.is_dir():
        under = "" if nearest == path else f" because {nearest} is not one"
        raise ConfigError(f"{path} cannot be {what}: it is no directory{under}; name another")


def expanded(path: str | Path) -> Path:
    """`path` with a leading ~ or ~user replaced by that user's home directory.

    Raises:
        ConfigError: there is no such user, or the user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{str(path)!r} names the home of a user who has none; write the whole path") from error
