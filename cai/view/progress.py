"""How far the index of a run is, on the terminal; silent for one that is made in a moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cai.report.tables import plain
from cai.view.index import SMALL_BYTES, Index, Told


@contextlib.contextmanager
def index_progress(console: Console) -> Iterator[Told]:
    """What an index calls as it grows; its bars end with the block."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    tasks: dict[Index, tuple[TaskID, int]] = {}

    def told(index: Index) -> None:
        if index not in tasks and index.bytes_waiting > SMALL_BYTES:
            if not tasks:
                bar.start()
            total = index.bytes_waiting
            tasks[index] = bar.add_task(f"index of {plain(index.run.name)}", total=total), total
        if index in tasks:
            task, total = tasks[index]
            bar.update(task, completed=total - index.bytes_waiting)
            if not index.waiting:
                del tasks[index]
                bar.remove_task(task)
                console.print(f"The index of {plain(index.run.name)} is complete.")
                if not tasks:
                    bar.stop()

    try:
        yield told
    finally:
        if tasks:
            bar.stop()
