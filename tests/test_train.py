"""Training through real `accelerate launch` processes, on a Qwen3 of 64 hidden units."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cai.config import Kind, TrainingConfig
from cai.config.training import KINDS, REWARDED
from cai.errors import ConfigError, TrainError
from cai.train.accelerated import accelerate_flags, command
from cai.train.folder import prepare_folder
from cai.train.launch import check_args, launch
from cai.train.memory import TRL_DEFAULTS, knobs
from cai.train.plan import CPU_DEFAULTS, DEFAULTS, METRICS, PLAN, TrainPlan, make_plan
from cai.train.process import JsonlTail, failure
from tests.tiny_model import TEMPLATE, write_demonstrations, write_pairs

SFT = TrainingConfig(
    args={"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": "1e-3", "save_steps": 2}
)
DPO = TrainingConfig(
    args={
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "save_steps": 2,
        "beta": 0.2,
    }
)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT rows."""
    path = tmp_path_factory.mktemp("data") / "sft.jsonl"
    write_demonstrations(path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DPO rows."""
    path = tmp_path_factory.mktemp("data") / "dpo.jsonl"
    write_pairs(path)
    return path


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def group_is_gone(marker: str) -> bool:
    """True when no process names `marker` on its command line."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in entry.read_bytes():
                return False
        except OSError:
            continue
    return True


def wait_until(condition: Any, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


@pytest.mark.slow
def test_sft_then_dpo_full(base: Path, demonstrations: Path, pairs: Path, tmp_path: Path) -> None:
    """Both trainings end in model folders that load unchanged; a second launch does nothing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    records: list[dict[str, Any]] = []
    sft = launch(
        "sft", model=str(base), data=demonstrations, out=tmp_path / "sft", config=SFT, seed=1,
        log=tmp_path / "sft.log", on_metrics=records.append,
    )  # fmt: skip
    assert (sft.steps, sft.skipped, sft.resumed_from) == (4, False, None)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert {"total", "eta_s", "loss", "learning_rate", "peak_memory"} <= set(records[-1])
    assert not (tmp_path / "sft" / "work").exists()

    arguments: dict[str, Any] = {
        "model": str(sft.out), "data": pairs, "out": tmp_path / "dpo", "config": DPO, "seed": 1,
        "log": tmp_path / "dpo.log",
    }  # fmt: skip
    records.clear()
    dpo = launch("dpo", on_metrics=records.append, **arguments)
    assert {"rewards/accuracies", "rewards/margins", "tokens_per_s"} <= set(records[-1])
    assert dpo.speed is not None and (dpo.speed.tokens_per_s or 0) > 0 and dpo.speed.mfu is None
    assert records[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "the reference is the starting model"
    for folder in (sft.out, dpo.out):
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert str(model.dtype) == "torch.bfloat16"
        assert tokenizer.chat_template == TEMPLATE
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
        assert model.generation_config.temperature == 0.9
        ours, theirs = (json.loads((path / "config.json").read_text()) for path in (folder, base))
        assert ours == theirs
        assert not list(folder.glob("*.bin"))
    assert len({weights(folder) for folder in (base, sft.out, dpo.out)}) == 3

    again = launch("dpo", **arguments)
    assert again.skipped and again.model_copy(update={"skipped": False}) == dpo
    assert group_is_gone(str(tmp_path))


@pytest.mark.slow
def test_dpo_lora_gives_a_merged_model_and_keeps_the_adapter(base: Path, pairs: Path, tmp_path: Path) -> None:
    """The final folder holds full weights that differ from the base; the adapter lies beside them."""
    from transformers import AutoModelForCausalLM

    config = DPO.model_copy(update={"lora": {"r": 4, "lora_alpha": 8}})
    report = launch(
        "dpo", model=str(base), data=pairs, out=tmp_path / "out", config=config, seed=1, log=tmp_path / "log"
    )
    names = sorted(path.name for path in (report.out / "adapter").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = AutoModelForCausalLM.from_pretrained(report.out).state_dict()
    assert before.keys() == after.keys()
    moved = [name for name in before if not before[name].equal(after[name])]
    assert moved and all("proj" in name for name in moved)


@pytest.mark.slow
def test_failing_training_raises_with_its_own_last_line(base: Path, pairs: Path, tmp_path: Path) -> None:
    """DPO rows given to SFT: the child's ConfigError comes back, and no process stays."""
    with pytest.raises(ConfigError, match=r"row 1: lacks 'completion'"):
        launch(
            "sft", model=str(base), data=pairs, out=tmp_path / "o", config=SFT, seed=1, log=tmp_path / "log"
        )
    assert group_is_gone(str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit (util-linux) is not installed")
def test_a_training_that_runs_out_of_memory(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real, a batch that its process has no memory for: what to lower, from its own values to which."""
    limit = ["prlimit", f"--data={3 * 2**30}"]
    monkeypatch.setattr("cai.train.launch.command", lambda plan: [*limit, *command(plan)])
    row = {
        "prompt": [{"role": "user", "content": "Hi. " * 100}],
        "completion": [{"role": "assistant", "content": "Hello. " * 100}],
    }
    data = tmp_path / "rows.jsonl"
    data.write_text((json.dumps(row) + "\n") * 2048)
    section = SFT.model_copy(
        update={"args": SFT.args | {"per_device_train_batch_size": 2048, "max_steps": 1}}
    )
    with pytest.raises(
        TrainError, match=r"can't allocate memory.* per_device_train_batch_size 2048 → 1024"
    ) as raised:
        launch(
            "sft",
            model=str(base),
            data=data,
            out=tmp_path / "o",
            config=section,
            seed=1,
            log=tmp_path / "log",
        )
    assert "\n" not in str(raised.value) and "gradient_accumulation_steps" in str(raised.value)
    assert group_is_gone(str(tmp_path))


@pytest.mark.slow
def test_stopping_from_another_thread_kills_the_group(
    base: Path, demonstrations: Path, tmp_path: Path
) -> None:
    """`stop` ends a training within moments, without leaving its processes behind."""
    stop = threading.Event()
    timer = threading.Timer(1.0, stop.set)
    timer.start()
    with pytest.raises(TrainError, match="stopped"):
        launch(
            "sft", model=str(base), data=demonstrations, out=tmp_path / "o", config=SFT, seed=1,
            log=tmp_path / "log", stop=stop,
        )  # fmt: skip
    wait_until(lambda: group_is_gone(str(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (TrainingConfig(args={"learning_rat": 1e-5}), "dpo.args.learning_rat: .*'learning_rate'"),
        (TrainingConfig(args={"learning_rate": "fast"}), "learning_rate: invalid float"),
        (TrainingConfig(lora={"rank": 8}), "dpo.lora.rank: unknown option"),
        (TrainingConfig(accelerate={"num_proceses": 2}), "dpo.accelerate.num_proceses: .*num_processes"),
    ],
)
def test_check_section_refuses(section: TrainingConfig, problem: str) -> None:
    """Unknown names and impossible values are ConfigErrors that name the option."""
    from cai.train.options import check_section

    with pytest.raises(ConfigError, match=problem):
        check_section("dpo", section)


@pytest.mark.slow
def test_check_args_in_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML's text `2e-5` is a number, a lone loss name a list of one. Only what was accepted is not asked again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dpo = TrainingConfig(args={"learning_rate": "2e-5", "loss_type": "ipo", "bf16": True}, lora={"r": 4})
    check_args({"sft": SFT, "dpo": dpo})
    with pytest.raises(ConfigError, match=r"^sft\.args\.learning_rat: unknown option; did you mean"):
        check_args({"dpo": dpo, "sft": TrainingConfig(args={"learning_rat": 1e-5})})
    assert len(list(tmp_path.rglob("training-options/*"))) == 1
    monkeypatch.setattr(subprocess, "run", None)
    check_args({"sft": SFT, "dpo": dpo})
    with pytest.raises(TypeError, match="not callable"):
        check_args({"sft": SFT})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(TypeError, match="not callable"):
        check_args({"sft": SFT, "dpo": dpo})


@pytest.mark.slow
def test_digest_follows_what_determines_the_weights(base: Path, demonstrations: Path, tmp_path: Path) -> None:
    """Seed, options and rows change the digest; the output folder does not."""
    data = tmp_path / "rows.jsonl"
    data.write_bytes(demonstrations.read_bytes())

    def digest(seed: int = 1, out: str = "a", **args: Any) -> str:
        config = TrainingConfig(args=SFT.args | args)
        return make_plan(
            "sft", model=str(base), data=data, out=tmp_path / out, config=config, seed=seed
        ).digest

    first = digest()
    assert digest(out="b") == first
    assert len({first, digest(seed=2), digest(learning_rate=2e-3)}) == 3
    data.write_text(data.read_text() + data.read_text().splitlines()[0] + "\n")
    assert digest() != first


@pytest.mark.slow
def test_plan_refuses_what_would_destroy_or_surprise(
    base: Path, demonstrations: Path, tmp_path: Path
) -> None:
    """Reserved options, an output folder around the inputs, missing files, and folders that are not ours."""

    def plan(out: Path, model: str = str(base), data: Path = demonstrations, **args: Any) -> Any:
        return make_plan("sft", model=model, data=data, out=out, config=TrainingConfig(args=args), seed=0)

    for args in ({"output_dir": "x"}, {"seed": 1}, {"trust_remote_code": True}):
        with pytest.raises(ConfigError, match=next(iter(args))):
            plan(tmp_path / "o", **args)
    with pytest.raises(ConfigError, match="holds the model"):
        plan(base.parent)
    with pytest.raises(ConfigError, match="no such model folder"):
        plan(tmp_path / "o", model=str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="export the dataset first"):
        plan(tmp_path / "o", data=tmp_path / "absent.jsonl")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        prepare_folder(plan(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.slow
def test_changed_plan_starts_afresh_and_same_plan_goes_on(
    base: Path, demonstrations: Path, tmp_path: Path
) -> None:
    """A complete checkpoint is used by the same digest only; torn ones are cleared away."""

    def prepare(seed: int) -> Any:
        return prepare_folder(
            make_plan("sft", model=str(base), data=demonstrations, out=tmp_path / "o", config=SFT, seed=seed)
        )

    assert prepare(1).resume_from is None
    for step, names in {
        2: ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"),
        10: ("optimizer.pt", "scheduler.pt", "rng_state.pth"),
    }.items():
        folder = tmp_path / "o" / "work" / f"checkpoint-{step}"
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")
    (tmp_path / "o" / METRICS).write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert prepare(1).resume_from.endswith("checkpoint-2")
    assert not (tmp_path / "o" / "work" / "checkpoint-10").exists()
    assert (tmp_path / "o" / METRICS).read_text() == '{"step": 1}\n{"step": 2}\n'
    assert prepare(2).resume_from is None
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == sorted([PLAN, "work"])


def plan_with(kind: Kind = "dpo", lora: dict[str, Any] | None = None, **args: Any) -> TrainPlan:
    """A plan that nothing is read for."""
    return TrainPlan(
        kind=kind, model="m", data="d", out="o", seed=0, args=DEFAULTS[kind] | args, lora=lora, accelerate={},
        data_sha256="", model_digest="", digest="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error", "problem"),
    [
        (
            "cai.errors.ConfigError: bad row\nsubprocess.CalledProcessError: Command '…'",
            ConfigError,
            "bad row",
        ),
        ("ValueError: nan\nTraceback\nsubprocess.CalledProcessError: x\n", TrainError, "ValueError: nan"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", TrainError, "OutOfMemoryError: CUDA out"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried\n[rank1]: RuntimeError: Connection closed by peer",
            TrainError,
            "OutOfMemoryError: CUDA out",
        ),
        ("", TrainError, "exit status 1"),
    ],
)
def test_failure_names_the_last_meaningful_line(
    text: str, error: type[Exception], problem: str, tmp_path: Path
) -> None:
    """The launcher's own traceback is not the reason, nor is what the other processes say of one without memory."""
    log = tmp_path / "log"
    log.write_text("ValueError: of an earlier run\n" + text)
    raised = failure(plan_with(), log, start=len("ValueError: of an earlier run\n"), status=1)
    assert type(raised) is error
    assert problem in str(raised)
    assert "earlier run" not in str(raised)


@pytest.mark.parametrize(
    ("plan", "advice"),
    [
        (
            plan_with(gradient_accumulation_steps=2),
            "in dpo.args set per_device_train_batch_size 8 → 4 with gradient_accumulation_steps 2 → 4, "
            "or max_length 1024 → 512; or dpo.lora: {r: 16}",
        ),
        (
            plan_with(per_device_train_batch_size="9", gradient_checkpointing=False, max_length=300, lora={}),
            "in dpo.args set per_device_train_batch_size 9 → 3 with gradient_accumulation_steps 1 → 3, "
            "or gradient_checkpointing false → true, or max_length 300 → 150",
        ),
        (
            plan_with("kto", per_device_train_batch_size=1, precompute_ref_log_probs=False, max_length=None),
            "in kto.args set precompute_ref_log_probs false → true; or kto.lora: {r: 16}",
        ),
        (
            plan_with("grpo", per_device_train_batch_size=2),
            "in grpo.args set per_device_train_batch_size 2 → 1 with gradient_accumulation_steps 1 → 2, "
            "or max_completion_length 512 → 256; or grpo.lora: {r: 16}",
        ),
        (
            plan_with("sft", per_device_train_batch_size=1, max_length=None, lora={"r": 4}),
            "nothing in sft.args is left to lower; take more GPUs (sft.accelerate.config_file)",
        ),
    ],
)
def test_out_of_memory_says_what_to_set(plan: TrainPlan, advice: str, tmp_path: Path) -> None:
    """From the training's own values, and from TRL's where it has none; only what would change something."""
    assert knobs(plan) == advice
    log = tmp_path / "log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n")
    assert str(failure(plan, log, start=0, status=1)) == (
        f"{plan.kind} training failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.; {advice} "
        f"(log: {log})"
    )


@pytest.mark.slow
def test_out_of_memory_knows_trls_defaults() -> None:
    """The values from which the advice starts are those of the trainers."""
    from cai.train.options import trl_config

    for kind in KINDS:
        config = trl_config(kind, CPU_DEFAULTS | {"gradient_checkpointing": True}, "unused")
        plain = type(config)(output_dir="unused", use_cpu=True, bf16=False)
        for name, value in TRL_DEFAULTS.items():
            if name in ("max_length", "max_completion_length") and (kind in REWARDED) == (
                name == "max_length"
            ):
                continue
            assert getattr(plain, name, None) == value, (kind, name)


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("kills", [[4, 5], [4, 4], [None, None]])
def test_killed_training_says_what_takes_memory(
    kills: list[int | None], cpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process that ends by SIGKILL; the kernel's count says whether it was for want of memory."""
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr("cai.train.launch.command", lambda plan: [sys.executable, "-c", script])
    counts = iter(kills)
    monkeypatch.setattr("cai.train.launch.oom_kills", lambda: next(counts))
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    config = TrainingConfig(args={"use_cpu": cpu, "dataloader_num_workers": 3})
    with pytest.raises(TrainError) as raised:
        launch(
            "sft", model=str(model), data=tmp_path / "rows.jsonl", out=tmp_path / "o", config=config, seed=1,
            log=tmp_path / "log",
        )  # fmt: skip
    by = "by the kernel" if kills == [4, 5] else "as the kernel does"
    assert f"; killed (SIGKILL), {by} for want of memory: " in str(raised.value)
    assert ("per_device_train_batch_size 8 → 4" in str(raised.value)) == cpu
    assert ("not the GPU's: sft.args.dataloader_num_workers 3 → 0" in str(raised.value)) == (not cpu)


def test_accelerate_flags() -> None:
    """True is a bare flag; a config file replaces our defaults; a CPU gets one process."""
    assert accelerate_flags({}, cpu=True)[-3:] == ["--cpu", "--num_processes", "1"]
    assert accelerate_flags({"config_file": "fsdp.yaml"}, cpu=False) == ["--config_file", "fsdp.yaml"]
    assert accelerate_flags({"num_processes": 8, "multi_gpu": True}, cpu=False)[-3:] == [
        "--num_processes", "8", "--multi_gpu",
    ]  # fmt: skip


def test_tail_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    """Records come once, in order, and never half."""
    path = tmp_path / "m.jsonl"
    tail = JsonlTail(path)
    assert tail.read() == []
    path.write_text('{"step": 1}\n{"st')
    assert tail.read() == [{"step": 1}]
    with path.open("a") as stream:
        stream.write('ep": 2}\n')
    assert tail.read() == [{"step": 2}]
    assert tail.read() == []


def test_launch_module_is_light() -> None:
    """The pipeline may import the launcher without paying for torch."""
    code = "import sys, cai.train.launch; assert not {'torch', 'trl', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
