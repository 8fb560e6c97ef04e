"""An event loop whose time is a number: when nothing is ready it goes on to the next timer, without waiting.

What runs belongs to a life, that of a client or of one server process. When a life is over, nothing of it runs any
more: no cleanup, no callback, as after a power cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any


class Life:
    """All that one simulated process does."""

    def __init__(self) -> None:
        self.is_over = False
        self.context = copy_context()
        self.context.run(_life.set, self)


_life: ContextVar[Life | None] = ContextVar("_life", default=None)


class NothingLeft(Exception):
    """Everybody waits for somebody else."""


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self, thread_seconds: Callable[[], float]) -> None:
        """Args: thread_seconds: how long the next thing that is done in a thread takes."""
        super().__init__()
        self._now = 0.0
        self._selector = self  # the base class waits there for sockets, of which there are none
        self._thread_seconds = thread_seconds
        self._is_ended = False
        self._relics: list[asyncio.Task[Any]] = []
        """Tasks of lives that are over, kept so that they do not come to their end, which would run their cleanup."""

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeft
        self._now += timeout
        return []

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        self._drop_if_dead(handle, context)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        self._drop_if_dead(handle, context)
        return handle

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Nothing runs beside the loop: the function is called there, a little later."""
        future = self.create_future()
        self.call_later(self._thread_seconds(), _call_into, future, func, args)
        return future

    def end_life(self, life: Life) -> None:
        life.is_over = True
        self._relics.extend(asyncio.all_tasks(self))
        for handle in (*self._ready, *self._scheduled):  # pyright: ignore[reportAttributeAccessIssue]
            if handle._context.get(_life) is life:
                handle.cancel()

    def end(self) -> None:
        """Let everything go that still waits, whatever it says to that."""
        self._is_ended = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task in {*self._relics, *asyncio.all_tasks(self)}:
                if not task.done():
                    task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
                    _close(task)
        self._relics.clear()
        self._ready.clear()  # pyright: ignore[reportAttributeAccessIssue]
        self._scheduled.clear()  # pyright: ignore[reportAttributeAccessIssue]
        self.close()

    def _drop_if_dead(self, handle: asyncio.Handle, context: Context | None) -> None:
        life = _life.get() if context is None else context.get(_life)
        if self._is_ended or (life is not None and life.is_over):
            handle.cancel()

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _call_into(future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if future.cancelled():
        return
    try:
        result = func(*args)
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _close(task: asyncio.Task[Any]) -> None:
    with contextlib.suppress(BaseException):  # its cleanup may want to wait for something
        task.get_coro().close()  # pyright: ignore[reportOptionalMemberAccess]
