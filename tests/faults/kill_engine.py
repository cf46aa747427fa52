"""kill -9 of the managed vLLM server in use: the run starts it again, or ends in one line and is resumed."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import NamedTuple

from cai.serving import RESTARTS
from tests.faults.after import GONE_S, alive, check_end, check_files, command_of, kill, left, mark, until_gone
from tests.faults.kill import Environment, Moment, Process, Tally, Whole, plain, root_of, through, undisturbed
from tests.faults.scene import LIMIT, Result, Scenario, ended, start, until_calls, write_config
from tests.faults.stand_in import CALLS, package

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "flows" / "configs" / "embedded.yaml"
SMALLER = ("sft=null", "dpo=null", "evaluate=null", "prompts.0.limit=60", "judge.require_qualification=false")
RECOVERY = "until the server that is started again is asked"


class Counted(NamedTuple):
    """What stands for a server whose calls are counted in a file."""

    file: Path

    @property
    def calls(self) -> int:
        """Calls that have arrived so far."""
        return self.file.stat().st_size if self.file.exists() else 0


async def server_killed(folder: Path, seed: int, times: int) -> Result:
    """The managed vLLM server (a stand-in that starts in a second), or its supervisor, while it answers.

    The run starts it again by itself, until it has died too often; then the run ends in one line and is resumed.
    """
    rng, tally = random.Random(seed), Tally()
    environment = package(folder)
    managed = {"env": environment, "start_timeout_s": 300}
    toy = {"backend": "vllm", "model": "toy", "managed": managed, "max_concurrency": LIMIT}
    server = Counted(Path(environment[CALLS]))
    whole = await undisturbed(plain, write_config(folder / "whole", "", models={"toy": toy}), server)
    for number in range(3 * times):
        if tally.kills >= times:
            break
        config = write_config(folder / f"run-{number}", "", models={"toy": toy})
        shares = [rng.uniform(0, 0.3) for _ in range(min(RESTARTS + 1, times - tally.kills))]
        await _kill_server(config, shares, server, whole, tally)
    return tally.result("kill -9 of the managed vLLM server", RECOVERY)


async def _kill_server(
    config: Path, shares: list[float], server: Counted, whole: Whole, tally: Tally
) -> None:
    before, environment = server.calls, mark()
    process = plain(config, environment)
    for number, share in enumerate(shares):
        if not await Moment(True, share).comes(process, server, whole, server.calls - before):
            break
        served, killed = left(environment, "vllm.entrypoints"), time.monotonic()
        kill([pid for pid in served if ("supervise.py" in command_of(pid)) == bool(number % 2)])
        async with asyncio.timeout(GONE_S):
            while alive(served):  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(0.01)
        calls = server.calls
        tally.kills += 1
        if await until_calls(server, process, calls + 1):
            tally.seconds.append(time.monotonic() - killed)
    _, errors = await ended(process, 600)
    assert "Traceback" not in errors, errors
    await until_gone(environment)
    check_files(root_of(config))
    if process.returncode:
        assert process.returncode == 1 and len(shares) > RESTARTS, errors
        *_, error, hint = errors.strip().splitlines()
        assert error.startswith("error: toy: the vLLM server died while it was in use"), errors
        assert hint.startswith("resume with: cai run"), errors
        await through(plain(config, environment))
        await until_gone(environment)
    check_end(root_of(config))
    tally.compare(whole, root_of(config), server.calls - before)


class Journalled(NamedTuple):
    """What stands for a server whose calls are counted as the run's journal has them."""

    root: Path

    @property
    def calls(self) -> int:
        """Replies that are kept so far."""
        return sum(path.read_bytes().count(b"\n") for path in self.root.glob("journal/*/*.jsonl"))


async def vllm_killed(folder: Path, seed: int, times: int) -> Result:
    """The real thing: vLLM with the embedded model on the CPU, killed while the demo's first stages ask it.

    Its calls are known as the journal has them, so those repeated are not counted.
    """
    rng, tally = random.Random(seed), Tally()

    def begin(name: str, environment: Environment) -> tuple[Process, Journalled]:
        sets = [word for value in (f"outputs={folder / name}", *SMALLER) for word in ("--set", value)]
        return start(DEMO, *sets, **environment), Journalled(folder / name / "demo")

    process, journal = begin("whole", mark())
    await through(process)
    whole = Whole(journal.root, journal.calls, 0)
    while tally.kills < times:
        environment = mark()
        process, journal = begin(f"run-{tally.kills}", environment)
        for _ in range(min(RESTARTS, times - tally.kills)):
            if not await until_calls(
                journal, process, journal.calls + 1 + int(rng.uniform(0, 0.3) * whole.calls)
            ):
                break
            kill(left(environment, "vllm.entrypoints"))
            killed, calls = time.monotonic(), journal.calls
            tally.kills += 1
            if await until_calls(journal, process, calls + 1):
                tally.seconds.append(time.monotonic() - killed)
        await through(process)
        await until_gone(environment)
        check_end(journal.root)
        tally.compare(whole, journal.root, journal.calls)
    return tally.result("kill -9 of vLLM", RECOVERY)._replace(repeated=0, most=0)


SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "kill -9 of the managed vLLM server (a stand-in)": (server_killed, 8),
    "kill -9 of the managed vLLM server (vLLM itself)": (vllm_killed, 2),
}
