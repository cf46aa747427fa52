"""`cai deploy`: what is wrong is one line before Prefect is asked for anything; what is right is what was said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.config_file import load_config
from cai.errors import ConfigError
from flows.deploy import _parser, wanted_of
from flows.times import UNITS, interval_seconds
from flows.wanted import FLOWS
from tests.small_cli import ROOT
from tests.test_cli import cai, one_line

pytestmark = pytest.mark.slow  # it takes seconds to import Prefect
DEMO = "flows/configs/embedded.yaml"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--flow", "prepare"], "--flow prepare: there is no such flow; choose one of generate, revise"),
        (["--interval", "5x"], "--interval 5x: not a time; write seconds, or 15m, 1h, 1d"),
        (["--interval", "0"], "--interval 0: not a time"),
        (["--cron", "0 2 * * *", "--interval", "5"], "--cron and --interval: choose one"),
        (["--timezone", "UTC"], "--timezone is for --cron"),
        (["--cron", "0 2 * * *", "--timezone", "Mars"], "--timezone Mars: there is no such zone"),
        (["--all", "--interval", "5"], "--all makes deployments without a schedule"),
        (["--inbox", "x"], "--inbox is for --flow nightly"),
        (["--min-pass-rate", "0.5"], "--min-pass-rate is for --flow nightly"),
        (["--flow", "nightly"], "--flow nightly needs --inbox FOLDER"),
        (["--flow", "nightly", "--inbox", "/none"], "inbox: there is no folder /none"),
        (
            ["--flow", "evaluate", "--set", "evaluate=null"],
            "--flow evaluate: the config has no section evaluate",
        ),
        (["--serve", "--work-pool", "x"], "--serve runs here, without a pool"),
    ],
)
def test_a_wrong_option_is_named(options: list[str], message: str) -> None:
    """The option, what is wrong with it and what to write instead."""
    arguments = _parser().parse_args([DEMO, *options])
    with pytest.raises(ConfigError) as error:
        wanted_of(load_config(ROOT / DEMO, arguments.overrides), arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "none.yaml: no such config file"),
        ([DEMO, "--set", "constitution=none.yaml"], "none.yaml"),
        ([DEMO, "--cron", "61 * * * *"], "--cron '61 * * * *': not a cron; write minute, hour, day, month"),
        (
            [DEMO],
            "there is no Prefect server to deploy to; start one (`prefect server start`) and set PREFECT_API_URL",
        ),
    ],
)
def test_the_command_ends_with_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    """The same through the command line, with the exit status of a user's mistake."""
    assert message in one_line(cai("deploy", *arguments, PREFECT_API_URL="", PREFECT_HOME=str(tmp_path)))


def test_all_flows_that_the_config_can_run(tmp_path: Path) -> None:
    """Each with the whole config as its parameter; nightly where there is an inbox, train where there is training."""
    config = load_config(ROOT / DEMO)
    found = wanted_of(
        config, _parser().parse_args([DEMO, "--all", "--inbox", str(tmp_path), "--name", "mine"])
    )
    assert [one.flow for one in found] == list(FLOWS)
    assert all(one.parameters["config"] == config.model_dump(mode="json") for one in found)
    assert {one.name for one in found} == {"mine"} and not any(one.cron or one.interval_s for one in found)
    assert found[-1].parameters["inbox"]["path"] == str(tmp_path)
    untrained = config.model_copy(update={"sft": None, "dpo": None, "evaluate": None})
    names = [one.flow for one in wanted_of(untrained, _parser().parse_args([DEMO, "--all"]))]
    assert names == ["generate", "revise", "judge", "qualify", "pipeline"]


@given(number=st.integers(1, 3660), unit=st.sampled_from(sorted(UNITS)))
def test_intervals_are_in_seconds(number: int, unit: str) -> None:
    """A number and one unit; seconds without one."""
    assert interval_seconds(f"{number}{unit}") == number * UNITS[unit]


@given(text=st.text(max_size=6).filter(lambda text: not text[:1].isdigit()))
def test_what_is_no_interval_is_refused(text: str) -> None:
    """One line that names the text."""
    with pytest.raises(ConfigError, match="not a time"):
        interval_seconds(text)
