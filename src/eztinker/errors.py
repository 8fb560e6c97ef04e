"""Every error EZTinker raises on purpose, sorted by who can fix it.

    EZTinkerError
    ├── UserError                 the caller can fix it              category "user"
    │   ├── InvalidInput          a value is wrong                   also a ValueError
    │   │   ├── MalformedBody     bytes that cannot be decoded
    │   │   ├── TooLarge          a body over its size limit
    │   │   └── ContextExceeded   prompt and max_tokens do not fit the model
    │   ├── Unsupported           a known field or feature we do not honour
    │   ├── NotFound              no such object, or not yours       also a LookupError
    │   │   ├── ModelNotServed    a base model the operator did not list
    │   │   └── CheckpointNotFound
    │   ├── AlreadyExists         a name is taken
    │   ├── SessionEnded          finished by the client, or silent for too long
    │   ├── ResultGone            an operation whose result was lost or has expired
    │   ├── Cancelled             a sample that its client gave up
    │   ├── SequenceGap           a request that came after its place in the lane was given up
    │   ├── NonFiniteUpdate       NaN or infinity in a loss, gradient or weight
    │   ├── ConfigError           start-up settings that cannot work
    │   ├── DataNotFound          a data set or base model that must be fetched first
    │   ├── NotInstalled          a package that only some features need
    │   └── DataDamaged           a line or file that cannot be read
    └── ServerError               the operator or we can fix it      category "server"
        ├── QueueFull             too much work is waiting; trying again later helps
        ├── EngineLost            the engine process died under an operation
        ├── DiskFull              a folder does not fit on its disk
        ├── DiskBroken            the disk refuses a folder for another reason
        ├── LogUnwritable         the disk refuses the operation log
        │   └── LogFull           because it is full
        ├── StaleEpoch            the work of an engine that has been replaced
        ├── CheckpointDamaged     bytes on disk differ from the manifest
        ├── ResultDamaged         bytes in the operation log differ from what was stored
        └── ServerUnreachable     no EZTinker server answers

A message says what was wrong with its value, what was expected and what to do. It reads without a traceback,
and never shows a path of the host to a remote caller, nor a secret that stood where it does not belong.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from eztinker.redaction import without_secrets

MAX_MESSAGE_CHARS = 2000
"""Longest message. Values are cut where they are quoted; this bounds lists that were not expected to be long."""
Category = Literal["user", "server"]


class EZTinkerError(Exception):
    """Base class of all our errors; `category` and `code` are sent to the client with the message."""

    category: ClassVar[Category] = "server"
    code: ClassVar[str] = "internal"

    @property
    def message(self) -> str:
        text = str(self.args[0]) if self.args else type(self).__name__
        return without_secrets(text[:MAX_MESSAGE_CHARS])


class UserError(EZTinkerError):
    category = "user"
    code = "user_error"


class InvalidInput(UserError, ValueError):
    """A value is invalid; `field` names the field to blame, if there is one."""

    code = "invalid_input"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MalformedBody(InvalidInput):
    code = "malformed_body"


class TooLarge(InvalidInput):
    code = "too_large"


class ContextExceeded(InvalidInput):
    code = "context_exceeded"


class Unsupported(UserError):
    code = "unsupported"


class NotFound(UserError, LookupError):
    code = "not_found"


class ModelNotServed(NotFound):
    code = "model_not_served"


class CheckpointNotFound(NotFound):
    code = "checkpoint_not_found"


class AlreadyExists(UserError):
    code = "already_exists"


class SessionEnded(UserError):
    code = "session_ended"


class ResultGone(UserError):
    code = "result_gone"


class Cancelled(UserError):
    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("The request was cancelled")


class SequenceGap(UserError):
    code = "sequence_gap"


class NonFiniteUpdate(UserError):
    code = "nonfinite_update"


class ConfigError(UserError):
    code = "config_error"


class DataNotFound(UserError):
    code = "data_not_found"


class NotInstalled(UserError):
    code = "not_installed"


class DataDamaged(UserError):
    code = "data_damaged"


class ServerError(EZTinkerError):
    code = "server_error"


class QueueFull(ServerError):
    code = "queue_full"


class EngineLost(ServerError):
    code = "engine_lost"


class DiskFull(ServerError):
    code = "disk_full"


class DiskBroken(ServerError):
    code = "disk_error"


class LogUnwritable(ServerError):
    code = "log_unwritable"


class LogFull(LogUnwritable):
    code = "disk_full"


class LogReplaced(LogUnwritable):
    """The operation log's path names another file than the one that was opened, or none."""

    code = "log_replaced"


class StaleEpoch(ServerError):
    code = "stale_epoch"


class CheckpointDamaged(ServerError):
    code = "checkpoint_damaged"


class ResultDamaged(ServerError):
    code = "result_damaged"


class ServerUnreachable(ServerError):
    code = "server_unreachable"
