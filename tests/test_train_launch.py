"""Trainings in several processes: the shipped files as accelerate reads them, and real ones on two CPU processes."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cai.config import TrainingConfig
from cai.errors import ConfigError
from cai.train.accelerated import command, require_deepspeed
from cai.train.folder import last_complete_checkpoint, prepare_folder
from cai.train.launch import launch
from cai.train.main import train
from cai.train.plan import METRICS, PLAN, TrainPlan, make_plan
from cai.train.refuse import SHIPPED, refuse
from tests.tiny_model import write_demonstrations

# Each shipped file: what it is for accelerate, machines, and processes on all of them.
FILES = {
    "1gpu": ("NO", 1, 1),
    "8gpu-ddp": ("MULTI_GPU", 1, 8),
    "8gpu-fsdp2": ("FSDP", 1, 8),
    "2x8gpu-fsdp2": ("FSDP", 2, 16),
    "8gpu-zero2": ("DEEPSPEED", 1, 8),
    "8gpu-zero3": ("DEEPSPEED", 1, 8),
    "2x8gpu-zero2": ("DEEPSPEED", 2, 16),
    "2x8gpu-zero3": ("DEEPSPEED", 2, 16),
}
TWO_MACHINES = {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"}


def plan_with(**accelerate: Any) -> TrainPlan:
    """A plan that nothing is read for."""
    return TrainPlan(
        kind="dpo", model="m", data="d", out="o", seed=0, args={}, lora=None, accelerate=accelerate,
        data_sha256="", model_digest="", digest="",
    )  # fmt: skip


def with_fields(args: Any, fields: Iterable[str]) -> Any:
    """The launcher's arguments as it passes them on to DeepSpeed."""
    args.deepspeed_fields_from_accelerate_config = ",".join(fields)
    args.main_process_port = int(free_port()) if args.num_machines == 1 else args.main_process_port
    return args


def set_place(monkeypatch: pytest.MonkeyPatch, **place: str) -> None:
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in place.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_files_are_read_by_accelerate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own loader and its own launcher, with each key known; one line of a section is enough to get there."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    from cai.train.options import check_section

    set_place(monkeypatch, **TWO_MACHINES)
    kind, machines, processes = FILES[name]
    read = load_config_from_file(str(SHIPPED[name]))
    assert (read.distributed_type.value, read.num_machines, read.num_processes) == (kind, machines, processes)
    parser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    assert set(read.fsdp_config) | set(read.deepspeed_config) <= known

    check_section("dpo", TrainingConfig(accelerate={"config_file": name}))
    line = command(plan_with(config_file=name))
    assert line[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    args, _, _ = _validate_launch_command(parser.parse_args(line[3:]))
    assert (args.use_fsdp, args.multi_gpu) == (kind == "FSDP", kind == "MULTI_GPU")
    assert (args.num_machines, args.num_processes) == (machines, processes)
    assert args.training_script == "cai.train.main"
    if kind == "FSDP":
        assert (int(args.fsdp_version), args.fsdp_state_dict_type) == (2, "SHARDED_STATE_DICT")
    assert args.use_deepspeed == (kind == "DEEPSPEED")
    if kind == "DEEPSPEED":
        monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", raising=False)
        started, environment = prepare_deepspeed_cmd_env(with_fields(args, read.deepspeed_config))
        stage = name[-1]
        assert started is None, "by torchrun on each machine, as with FSDP; not by pdsh"
        assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == stage
        assert environment["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == str(stage == "3").lower()
        assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in environment, "the section's is taken"
    if machines > 1:
        assert (args.machine_rank, args.main_process_ip, args.main_process_port) == (1, "10.0.0.1", 29500)


def test_all_files_are_listed() -> None:
    """What is shipped is what is tested, and what the docs name."""
    assert set(SHIPPED) == set(FILES)
    docs = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in docs for name in SHIPPED)


@pytest.mark.parametrize("options", [{"config_file": "2x8gpu-zero3"}, {"use_deepspeed": True}])
def test_deepspeed_that_is_not_there(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in one line with the fix; where it is there, and for files that do not want it, nothing is said."""
    found = importlib.util.find_spec
    lacking = lambda name: None if name == "deepspeed" else found(name)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", lacking)
    with pytest.raises(ConfigError, match=r"dpo\.accelerate: [\w-]+: .*pip install 'cai\[deepspeed\]'"):
        require_deepspeed("dpo", options)
    require_deepspeed("dpo", {"config_file": "8gpu-fsdp2"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found("json"))
    require_deepspeed("dpo", options)


def test_place_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, or from the section, which goes first; one of them must say it."""
    set_place(monkeypatch, MASTER_ADDR="10.0.0.1")
    with pytest.raises(ConfigError, match=r"dpo\.accelerate\.machine_rank: .* set NODE_RANK in the environ"):
        command(plan_with(config_file="2x8gpu-fsdp2"))
    line = command(plan_with(config_file="2x8gpu-fsdp2", machine_rank=0, main_process_ip="10.0.0.9"))
    flags = dict(zip(line[3::2], line[4::2], strict=False))
    assert flags["--machine_rank"] == "0" and flags["--main_process_ip"] == "10.0.0.9"
    assert flags["--main_process_port"] == "29500"
    set_place(monkeypatch, **TWO_MACHINES, MASTER_PORT="1234")
    assert "--machine_rank" not in command(plan_with(config_file="8gpu-fsdp2"))
    line = command(plan_with(num_machines=2, num_processes=4))
    flags = dict(zip(line[3::2], line[4::2], strict=False))
    assert (flags["--machine_rank"], flags["--main_process_port"]) == ("1", "1234")


@pytest.mark.slow
def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A name that is neither a file nor shipped, and a key that accelerate does not know, before anything starts."""
    from cai.train.options import check_section

    with pytest.raises(ConfigError, match=r"sft\.accelerate\.config_file: no file '8gpus'; .* 8gpu-fsdp2"):
        refuse("sft", TrainingConfig(accelerate={"config_file": "8gpus"}))
    own = tmp_path / "own.yaml"
    own.write_text("distributed_type: MULTI_GPU\nnum_proceses: 8\n")
    with pytest.raises(ConfigError, match=r"sft\.accelerate\.config_file: .*num_proceses"):
        check_section("sft", TrainingConfig(accelerate={"config_file": str(own)}))


def test_checkpoints_of_divided_optimizers_are_complete(tmp_path: Path) -> None:
    """Whatever form the optimizer's states are written in, the checkpoint is one to go on from."""
    for step, optimizer in enumerate(
        ("optimizer.pt", "optimizer.bin", "optimizer_0", "global_step4"), start=1
    ):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in (optimizer, "scheduler.pt", "rng_state_0.pth"):
            (folder / name).touch()
        (folder / "trainer_state.json").write_text("{}")
        assert last_complete_checkpoint(tmp_path) == folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Demonstrations to train on."""
    write_demonstrations(tmp_path / "rows.jsonl")
    return tmp_path / "rows.jsonl"


def two_processes(folder: Path, machines: int = 1) -> TrainingConfig:
    """Two steps in two processes by a config file of one's own; the backend on CPU is gloo."""
    path = folder / "two.yaml"
    path.write_text(
        f"distributed_type: MULTI_GPU\nnum_machines: {machines}\nnum_processes: 2\nsame_network: true\n"
    )
    args = {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "save_strategy": "no"}
    return TrainingConfig(args=args, accelerate={"config_file": str(path)})


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


@pytest.mark.slow
def test_two_processes_train_together(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDP on CPU: one report, one set of metrics, one model, of twice the batch; and a refusal of both is one line."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = two_processes(tmp_path)
    report = launch(
        "sft", model=str(base), data=rows, out=tmp_path / "o", config=config, seed=1, log=tmp_path / "log"
    )
    assert report.found is not None and report.found.machine.processes == 2
    assert report.found.rows is not None and report.found.rows.rows == 24
    records = [json.loads(line) for line in (tmp_path / "o" / METRICS).read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert (tmp_path / "log").read_text().count("found: 2 × cpu") == 1

    alone = TrainingConfig(args=config.args | {"per_device_train_batch_size": 4})
    plan = make_plan("sft", model=str(base), data=rows, out=tmp_path / "a", config=alone, seed=1)
    train(prepare_folder(plan))
    first = json.loads((tmp_path / "a" / METRICS).read_text().splitlines()[0])
    assert records[0]["num_tokens"] == first["num_tokens"], "the same four rows"

    short = TrainingConfig(args=config.args | {"max_length": 8}, accelerate=config.accelerate)
    with pytest.raises(ConfigError, match=r"24 of 24 rows \(100\.0%\) are longer than max_length 8"):
        launch(
            "sft", model=str(base), data=rows, out=tmp_path / "s", config=short, seed=1, log=tmp_path / "log"
        )


@pytest.mark.slow
def test_two_machines_train_together(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine 0 launches, machine 1 joins by the plan in the shared folder; both are this one here."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    set_place(monkeypatch, **place, NODE_RANK="0", OMP_NUM_THREADS="1")
    out = tmp_path / "o"
    joined: list[subprocess.Popen[bytes]] = []

    def second() -> None:
        while not (out / PLAN).exists():
            time.sleep(0.05)
        with (tmp_path / "second.log").open("wb") as log:
            line = [sys.executable, "-m", "cai.train.join", str(out / PLAN)]
            joined.append(subprocess.Popen(line, env=os.environ | {"NODE_RANK": "1"}, stdout=log, stderr=log))

    thread = threading.Thread(target=second)
    thread.start()
    config = two_processes(tmp_path, machines=2)
    report = launch("sft", model=str(base), data=rows, out=out, config=config, seed=1, log=tmp_path / "log")
    thread.join()
    assert joined[0].wait(timeout=120) == 0, (tmp_path / "second.log").read_text()
    assert report.found is not None and report.found.machine.processes == 2
    assert report.steps == 2


@pytest.mark.slow
def test_joining_what_is_not_there(tmp_path: Path) -> None:
    """One line, and the exit status of a user's mistake."""
    line = [sys.executable, "-m", "cai.train.join", str(tmp_path / PLAN)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path / PLAN}: no such plan; machine 0 writes it when it starts to train\n"


@pytest.mark.slow
def test_content_of_the_file_is_part_of_the_digest(base: Path, rows: Path, tmp_path: Path) -> None:
    """Another number of processes is another batch, and so another model."""

    def digest() -> str:
        return make_plan("sft", model=str(base), data=rows, out=tmp_path / "o", config=config, seed=0).digest

    config = two_processes(tmp_path)
    first = digest()
    assert digest() == first
    own = tmp_path / "two.yaml"
    own.write_text(own.read_text().replace("num_processes: 2", "num_processes: 3"))
    assert digest() != first
