"""Progress bars for work of known size, shown only on a console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class ProgressBars:
    """Progress bars on `console`; None shows nothing."""

    def __init__(self, console: Console | None) -> None:
        self._console = console

    @contextmanager
    def task(self, description: str) -> Iterator[Callable[[float], None]]:
        """Show a bar during the block, which calls the yielded function with the fraction that is done, 0 to 1."""
        if self._console is None:
            yield lambda share: None
            return
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as bars:
            task_id = bars.add_task(description, total=1.0)
            yield lambda share: bars.update(task_id, completed=min(share, 1.0))
            bars.update(task_id, completed=1.0)
