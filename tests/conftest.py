"""What all tests share: how they are divided among processes, and the engine that many of them ask."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import flows  # noqa: F401 - sets what Prefect must find in the environment before it is imported
from tests.browser import browser, visit  # noqa: F401 - fixtures
from tests.engine import Engine, shared_engine
from tests.tiny_model import build_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
settings.register_profile("whole", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=15)  # of `make check`
settings.load_profile("whole")
# Files that take minutes, begun first so that no process is left with one of them at the end.
LONG = ("test_end_to_end.py", "test_schedule.py", "test_benchmarks.py", "test_deployment.py", "test_kill.py")


WHOLLY_SLOW = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.M)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """For the quick tests a file that is slow as a whole is not even imported: Prefect alone takes seconds."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return True if WHOLLY_SLOW.search(collection_path.read_text("utf-8")) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A process takes files as a whole; all that asks the shared engine, and the demo, is one process's."""
    engine: set[pytest.Item] = set()
    for item in items:
        if item.path.name == LONG[0] or "engine" in getattr(item, "fixturenames", ()):
            engine.add(item)
        name = "engine" if item in engine else "/".join(item.path.parts[-2:])
        item.add_marker(pytest.mark.xdist_group(name))
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (item not in engine, rank.get(item.path.name, len(LONG))))


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The embedded model on a managed vLLM server with the demo's flags, for tests that are not about its start."""
    with shared_engine(tmp_path_factory.mktemp("engine") / "vllm.log") as found:
        yield found


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 64 hidden units that trainings start from."""
    folder = tmp_path_factory.mktemp("base")
    build_model(folder)
    return folder


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the flows do."""
    return "asyncio"
