"""The API that a run reports to: its temporary server loads beside the run, and only where one is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, Settings, temporary_settings

from cai.errors import ConfigError
from flows.api import api_for
from flows.server import TEMPORARY
from tests.flows.server import ROOT
from tests.flows.small import small_run

pytestmark = pytest.mark.slow  # it takes seconds to import Prefect


def children() -> set[int]:
    """The processes that this one has started."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_nothing_of_prefect_is_imported_before_its_server_is_started() -> None:
    """What the program imports at its start, the code that starts the server included."""
    code = "import sys, flows.__main__, flows.api; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_prefect_reads_what_the_temporary_server_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names for the settings, which it would pass over in silence where they change."""
    before = Settings().server
    assert before.register_blocks_on_start and before.memoize_block_auto_registration and before.ui.enabled
    for name, value in TEMPORARY.items():
        monkeypatch.setenv(name, value)
    server = Settings().server
    assert not server.register_blocks_on_start
    assert not server.memoize_block_auto_registration
    assert not server.ui.enabled


def test_an_api_that_prefect_is_configured_with_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the environment does not name it: the server that was started meanwhile is gone."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    url, mine = "http://127.0.0.1:9/api", children()
    with (
        temporary_settings({PREFECT_API_URL: url}),
        api_for(small_run(tmp_path, "http://127.0.0.1:9/v1")) as ready,
    ):
        ready()
        assert PREFECT_API_URL.value() == url
        assert children() <= mine


def test_a_config_that_is_wrong_starts_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of first."""
    from flows import __main__ as program

    def never(config: object) -> None:
        raise AssertionError("a server was to be started")

    (tmp_path / "run.yaml").write_text("name: small\n")
    monkeypatch.setattr(program, "api_for", never)
    monkeypatch.setattr(sys, "argv", ["flows", "pipeline", str(tmp_path / "run.yaml")])
    assert program.main() == ConfigError.exit_code


def test_the_temporary_server_wants_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else on this machine starts a run, or reads one; the key stands in no process's arguments."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),  # other tests' server
        api_for(small_run(tmp_path, "http://127.0.0.1:9/v1")) as ready,
    ):
        ready()
        url, login = f"{PREFECT_API_URL.value()}/flow_runs/count", PREFECT_API_AUTH_STRING.value()
        assert login and len(login) > 32
        assert httpx.post(url, json={}).status_code == 401
        assert httpx.post(url, json={}, auth=("cai", "another")).status_code == 401
        user, _, key = login.partition(":")
        assert httpx.post(url, json={}, auth=(user, key)).status_code == 200
        lines = [word for child in psutil.Process().children(recursive=True) for word in child.cmdline()]
        assert not [word for word in lines if key in word]
    assert not PREFECT_API_AUTH_STRING.value()
