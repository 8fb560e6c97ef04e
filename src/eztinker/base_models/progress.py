"""A progress bar for work of known size, shown only where somebody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Progress:
    """Bars on `console`; without one, silence."""

    def __init__(self, console: Console | None) -> None:
        self._console = console

    @contextmanager
    def task(self, description: str) -> Iterator[Callable[[float], None]]:
        """A bar for the length of the block; call what it gives with the share that is done, 0 to 1."""
        if self._console is None:
            yield lambda share: None
            return
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Bars(*columns, console=self._console) as bars:
            task_id = bars.add_task(description, total=1.0)
            yield lambda share: bars.update(task_id, completed=min(share, 1.0))
            bars.update(task_id, completed=1.0)
