"""Benchmarks run, and print the ratios that speed claims are made of."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import QUICK, SETS
from benchmarks.engine import PROMPTS, REPEATS, parts
from benchmarks.job import compare_prompt, critique_prompt, revise_prompt
from benchmarks.loopback import Server, loopback
from benchmarks.replies import Behaviour
from cai.config_file import load_config

ROOT = Path(__file__).parent.parent

SMALL = ("--rows", "12", "--concurrency", "8", "--repeats", "1", "--latency", "0")


def bench(module: str, *options: str | Path) -> Any:
    """The one JSON object that a benchmark prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, options), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask(server: Server, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
    """One call: status, JSON and headers of the reply."""
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", data=json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def user(text: str, **more: Any) -> dict[str, Any]:
    """The body of a call with one user turn."""
    return {"model": "loopback", "messages": [{"role": "user", "content": text}], **more}


def test_loopback_recognises_what_is_asked() -> None:
    """Replies, critiques, revisions and choices are told apart, counted by all processes, and forgotten on reset."""
    with loopback(processes=2) as server:
        reply = ask(server, user("a question"))[1]["choices"][0]["message"]["content"]
        critique = ask(server, user(critique_prompt("a question", reply)))[1]["choices"][0]["message"][
            "content"
        ]
        asked = user(revise_prompt("a question", reply, "words"))
        revision = ask(server, asked)[1]["choices"][0]["message"]["content"]
        for first, second, better in ((reply, revision, "B"), (revision, reply, "A")):
            body = user(compare_prompt("a question", first, second), return_tokens_as_token_ids=True)
            choice = ask(server, body)[1]["choices"][0]
            top = choice["logprobs"]["content"][0]["top_logprobs"]
            p = {entry["token"]: math.exp(entry["logprob"]) for entry in top}
            assert choice["message"]["content"] == better
            assert p == pytest.approx({f"token_id:{ord(x)}": 0.9 if x == better else 0.1 for x in "AB"})
        with urllib.request.urlopen(f"{server.url}/stats") as response:
            told = json.load(response)
        assert told["by_kind"] == {"reply": 1, "critique": 1, "revision": 1, "choice": 2}
        assert critique.endswith("\nVERDICT: breaks")
        server.reset()
        assert server.stats().calls == 0


def test_loopback_takes_a_body_in_pieces() -> None:
    """A request that arrives byte by byte is one request, and the connection serves the next one."""
    body = json.dumps(user("in pieces")).encode()
    wire = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with loopback(processes=1) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i in range(len(wire)):
                connection.send(wire[i : i + 1])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
            connection.sendall(wire + wire)
            received = b""
            while received.count(b"HTTP/1.1 200 OK") < 2:
                received += connection.recv(65536)
        assert server.stats().calls == 3


def test_loopback_faults_are_seeded() -> None:
    """The same requests meet the same faults in another server; asked again, a refused one can succeed."""
    behaviour = Behaviour(rate_limited=0.3, failing=0.2, retry_after_s=7, seed=3)
    found = []
    for _ in range(2):
        with loopback(behaviour, processes=2) as server:
            seen = [[ask(server, user(f"question {i}")) for _ in range(6)] for i in range(40)]
            assert server.stats().calls == 240
        found.append([[status for status, _, _ in row] for row in seen])
    assert found[0] == found[1]
    flat = [answer for row in seen for answer in row]
    assert 40 < sum(status == 429 for status, _, _ in flat) < 105
    assert 20 < sum(status == 500 for status, _, _ in flat) < 80
    assert any(row[0] == 429 and 200 in row for row in found[0])
    waits = {headers.get("Retry-After") for status, _, headers in flat if status == 429}
    assert waits == {"7", None}


def test_capacity() -> None:
    """The load makes every call that it was asked for."""
    found = bench("capacity", "--calls", "5000", "--connections", "8", "--processes", "1", "2")
    assert [row["calls"] for row in found["rows"]] == [5000, 5000]


@pytest.mark.slow
def test_throughput() -> None:
    """Every contender makes five calls a row; what keeps its calls makes none when it runs again; absent is said."""
    contenders = ["aiohttp", "sdk", "core", "distilabel"]
    found = bench("throughput", *SMALL, "--contenders", *contenders)
    rows = {row["contender"]: row for row in found["rows"]}
    assert rows["distilabel"]["note"] == "not installed"
    assert list(rows["distilabel"]) == ["contender", "concurrency", "note"]
    measured = {name: row for name, row in rows.items() if name != "distilabel"}
    assert {name: row["calls"] for name, row in measured.items()} == dict.fromkeys(measured, 60)
    assert rows["core"]["rerun_calls"] == 0
    assert "rerun_s" not in rows["aiohttp"]
    assert rows["aiohttp"]["ratio"] == 1
    assert all(row["start_s"] > 0 and row["peak_mb"] > 5 for row in measured.values())


@pytest.mark.slow
def test_throughput_with_prefect() -> None:
    """The run through Prefect makes the same calls, and none when it runs again."""
    found = bench("throughput", *SMALL, "--contenders", "prefect")
    assert [(row["calls"], row["rerun_calls"]) for row in found["rows"]] == [(60, 0)]
    assert "ratio" not in found["rows"][0]  # the client that it would be held against did not run


def test_throughput_says_what_failed() -> None:
    """A contender that fails ends the benchmark with its own words, and no figure is reported."""
    command = [
        sys.executable, "-m", "benchmarks.throughput", "--rows", "4", "--repeats", "1", "--latency", "0",
        "--contenders", "distilabel", "--distilabel", sys.executable,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert "No module named 'distilabel'" in done.stderr


@pytest.mark.slow
def test_faults() -> None:
    """Faults cost calls and no rows, and a target of pairs is met exactly."""
    options = ["--rows", "60", "--repeats", "1", "--latency", "0", "--limit", "16"]
    found = bench("faults", *options, "--target", "20")
    clean, faulty = found["rows"]
    assert (clean["calls"], clean["rate_limit"], clean["server_error"]) == (300, 0, 0)
    assert faulty["rate_limit"] > 0 and faulty["server_error"] > 0
    assert faulty["calls"] == 300 + faulty["rate_limit"] + faulty["server_error"] + faulty["malformed"]
    assert clean["rows_out"] == faulty["rows_out"] == 60
    assert found["target"]["pairs"] == 20
    assert found["target"]["over_asked"] >= 0


@pytest.mark.slow
def test_memory() -> None:
    """A peak and a curve for each size, and the growth over the smallest."""
    found = bench("memory", "--sizes", "10", "20", "--limit", "8")
    small, large = found["rows"]
    assert (small["calls"], large["calls"]) == (50, 100)
    assert large["growth_mb"] == pytest.approx(large["peak_mb"] - small["peak_mb"])
    assert max(mb for _, mb in small["curve"]) <= small["peak_mb"] + 0.1
    assert "growth_mb" not in small


def test_the_prompts_are_enough_for_the_engine(tmp_path: Path) -> None:
    """`make bench` asks for no more parts than the embedded model has prompts for; one more is refused."""
    config = load_config("flows/configs/embedded.yaml")
    assert len(parts(config, tmp_path, PROMPTS, REPEATS, "server")) == 1 + 2 * REPEATS
    with pytest.raises(SystemExit, match="too few"):
        parts(config, tmp_path, PROMPTS, REPEATS + 1, "server")


@pytest.mark.slow
def test_engine() -> None:
    """On a few prompts, the offline loop answers exactly the requests that the pipeline made."""
    found = bench("engine", "--prompts", "12", "--repeats", "1", "--ways", "server")
    rows = {(row["way"], row["stage"]): row for row in found["rows"]}
    stages = ("generate", "revise", "judge", "whole")
    assert set(rows) == {("server", stage) for stage in stages}
    assert all(row["same_requests"] and row["same_prompt_tokens"] for row in rows.values())
    assert rows["server", "generate"]["calls"] == 24
    assert all(found["start_s"][way] > 0 for way in ("server", "offline"))


def test_promise() -> None:
    """The promise is kept in worlds whose truth is known, and on halves of a recorded judge where one is here."""
    command = [
        sys.executable,
        "benchmarks/promise.py",
        "--truth",
        "--halves",
        "60",
        "--target-accuracy",
        "0.7",
    ]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert found["worlds"] == 60 and found["with_a_threshold"] > 10
    assert found["broken"] <= 0.1


@pytest.mark.slow
def test_promise_on_published_verdicts() -> None:
    """Chosen on one half of a real judge's verdicts, kept on the other in nine of ten halves."""
    file = ROOT.parent / "shared" / "data" / "judgments" / "calibration_mistral-7b-instruct.jsonl"
    if not file.is_file():
        pytest.skip("the shared data are not here")
    command = [sys.executable, "benchmarks/promise.py", str(file)]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert found["halves"] == 200 and found["with_a_threshold"] > 40
    assert found["measured_broken"] <= 0.1


@pytest.mark.slow
def test_all_in_turn() -> None:
    """The runner starts what is named and refuses what there is not."""
    command = [sys.executable, "-m", "benchmarks", "--quick"]
    done = subprocess.run([*command, "capacity"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "calls/s a core" in done.stdout
    refused = subprocess.run([*command, "nothing"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "nothing" in refused.stderr


@pytest.mark.slow
def test_all_options_are_known() -> None:
    """Every command of the runner is understood by its benchmark: only an option too many is refused."""
    for name, commands in SETS.items():
        both = (*commands, *QUICK[name])
        assert len({module for module, *_ in both}) == 1
        options = [option for _, *options in both for option in options]
        command = [sys.executable, "-m", both[0][0], *options, "--no-such-option"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.endswith("error: unrecognized arguments: --no-such-option\n"), done.stderr


@pytest.mark.slow
def test_training() -> None:
    """One of the trainings on a small shape: a speed, a peak of memory, and no MFU without a GPU."""
    small = ("--shape", "tiny", "--length", "128", "--steps", "2", "--rows", "20")
    (row,) = bench("training", *small, "--kinds", "sft", "--ways", "ours")
    assert row["tokens_per_s"] > 0 and row["peak_memory"] > 1e6
    assert (row["kind"], row["way"], row["ratio"], row["mfu"]) == ("sft", "ours", 1, None)
