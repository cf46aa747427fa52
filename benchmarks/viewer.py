"""`cai view` over a run of a million judgments: pages, filters and searches timed over HTTP, memory watched outside.

The run is made up (`viewer_run.py`), with half as many prompts as judgments. The viewer is started twice: once without
an index, until the index is complete, and once with it; each page is asked for once by a server that has not shown it
yet, so nothing of its rows is kept, and then a second time. CPU seconds are the server's, of all its threads. Memory is
the resident set (RSS) of the server process, sampled five times a second; while the index is built, that of its
helpers stands beside it. The operating system's file cache is warm: the run has just been written or read.

    python -m benchmarks.viewer                                  # a million judgments: minutes, and 5 GB of disk
    python -m benchmarks.viewer --rows 20000
    python -m benchmarks.viewer --folder /tmp/made               # keeps the run, and takes it up again
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psutil

from benchmarks.tables import Column, print_table, save
from benchmarks.viewer_run import RARE, make_run

COLUMNS = (
    Column("page", "page"),
    Column("rows", "rows", "{:,}"),
    Column("first_s", "first, s", "{:.2f}"),
    Column("first_cpu_s", "CPU s", "{:.2f}"),
    Column("again_s", "again, s", "{:.2f}"),
)
PAGES = (
    ("first page of the judgments", "/table/judgments"),
    ("principle", "/table/judgments?principle=principle-03"),
    ("tag", "/table/judgments?tag=privacy"),
    ("state", "/table/judgments?state=below_threshold"),
    ("confidence 0.9 to 0.95", "/table/judgments?low=0.9&high=0.95"),
    ("judge", "/table/judgments?model=j2"),
    ("principle, tag, state and confidence", "/table/judgments?principle=principle-03&tag=privacy&state=tie&low=0.8"),
    ("text, in 1 of 5,000 rows", f"/table/judgments?q={RARE}"),
    ("text, in most rows", "/table/judgments?q=garden"),
    ("text, in no row", "/table/judgments?q=nothing+is+like+this"),
    ("least confident first", "/table/judgments?sort=unsure"),
    ("longest first", "/table/judgments?sort=long"),
    ("replies", "/table/replies"),
    ("verdicts by one judge under one principle", "/table/verdicts?model=j2&principle=principle-04"),
    ("drops by reason", "/table/drops?state=inconsistent"),
    ("overview", "/"),
)  # fmt: skip


class Server(NamedTuple):
    """A viewer in a process of its own. `peaks`: most RSS of itself and of its helpers, in MB."""

    process: psutil.Process
    port: int
    cookie: str
    peaks: dict[str, float]
    ready_s: float

    def page(self, path: str) -> tuple[float, float, str]:
        """Seconds, CPU seconds of the server, and the page."""
        used, began = self.process.cpu_times(), time.monotonic()
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        ) as connection:
            connection.request("GET", path, headers={"Cookie": self.cookie})
            answer = connection.getresponse()
            body = answer.read().decode()
        seconds, now = time.monotonic() - began, self.process.cpu_times()
        if answer.status != 200:
            raise SystemExit(f"{path}: status {answer.status}: {body}")
        return seconds, now.user + now.system - used.user - used.system, body


@contextlib.contextmanager
def served(run: Path) -> Iterator[Server]:
    """Start `cai view` and end it."""
    began = time.monotonic()
    command = [sys.executable, "-m", "cai", "view", str(run), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        found = None
        while found is None:
            line = started.stderr.readline()
            if not line:
                raise SystemExit("the viewer did not start")
            found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", line)
        threading.Thread(target=started.stderr.read, daemon=True).start()  # a full pipe would stop it
        port, peaks = int(found[1]), {"server_mb": 0.0, "helpers_mb": 0.0}
        cookie = f"cai_view_{port}={found[2]}"
        server = Server(psutil.Process(started.pid), port, cookie, peaks, time.monotonic() - began)
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(server, ended))
        watcher.start()
        try:
            yield server
        finally:
            ended.set()
            watcher.join()
            started.terminate()


def _watch(server: Server, ended: threading.Event) -> None:
    while not ended.wait(0.2):
        with contextlib.suppress(psutil.Error):
            own = server.process.memory_info().rss / 2**20
            helpers = (
                sum(child.memory_info().rss for child in server.process.children(recursive=True)) / 2**20
            )
            server.peaks["server_mb"] = max(server.peaks["server_mb"], own)
            server.peaks["helpers_mb"] = max(server.peaks["helpers_mb"], helpers)


def measure(run: Path, rows: int) -> dict[str, Any]:
    """Without an index, then with it."""
    with served(run) as server:
        cold = server.page("/table/judgments")[0]
        began = time.monotonic()
        while "index is being made" in server.page("/table/prompts")[2]:
            time.sleep(5)
        building = {
            "address_s": server.ready_s,
            "first_page_s": cold,
            "built_s": time.monotonic() - began,
            **server.peaks,
        }
    timed = []
    with served(run) as server:
        for name, path in (
            *PAGES,
            ("deep: after row 90 %", deep(run, rows)),
            ("story", "/story?prompt=p0000007"),
        ):
            first, cpu, page = server.page(path)
            found = re.search(r"<strong>([\d,]+)</strong> of", page)
            timed.append(
                {"page": name, "rows": int(found[1].replace(",", "")) if found else None, "first_s": first,
                 "first_cpu_s": cpu, "again_s": server.page(path)[0]}
            )  # fmt: skip
        served_with = {"address_s": server.ready_s, **server.peaks}
    return {"building": building, "served": served_with, "pages": timed}


def deep(run: Path, rows: int) -> str:
    """The address of the page that begins after nine tenths of the rows, in the order of ids."""
    import duckdb

    files = [str(path) for path in (run / ".view").glob("v*/judgments/*.parquet")]
    sql = "SELECT start, part, shard, stage FROM read_parquet(?) ORDER BY id LIMIT 1 OFFSET ?"
    place = duckdb.connect(config={"memory_limit": "1GB"}).execute(sql, [files, rows * 9 // 10]).fetchone()
    assert place is not None
    return f"/table/judgments?after={'.'.join(map(str, place))}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the run, measure, print and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="judgments")
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="that make the run up")
    parser.add_argument("--folder", type=Path, help="where the run is kept; default: a temporary folder")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = folder / "made"
        if not run.exists():
            folder.mkdir(parents=True, exist_ok=True)
            make_run(folder, options.rows, options.shards, options.workers)
        found = {"settings": {"rows": options.rows, "shards": options.shards}, **measure(run, options.rows)}
    save("viewer", found)
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
        return
    print_table(f"viewer over {options.rows:,} judgments, index complete", COLUMNS, found["pages"])
    for when in ("building", "served"):
        print_table(when, [Column(name, name, "{:.1f}") for name in found[when]], [found[when]])


if __name__ == "__main__":
    main()
