"""The family in a run: sections, order and starting models, the measured flip rate, a reward model that is used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from cai.conduct.models import train_one
from cai.conduct.work import HERE, checkpoint
from cai.config import Kind, RunConfig
from cai.config.training import KINDS, POLICIES
from cai.config_file import load_config
from cai.constitution import load_constitution
from cai.errors import ConfigError
from cai.export.dataset import part_file
from cai.judges.calibration import write_calibration
from cai.judges.label_error import check_measured, with_measured
from cai.judges.qualification import calibration_of, summary_of, to_measure
from cai.judges.stages import qualify_stage
from cai.plan.per_prompt import Shares, calls_a_prompt
from cai.report.status import run_status
from cai.report.tables import evaluation_table
from cai.rows import Message, Recorded
from cai.shard import shard_paths
from cai.store import write_rows
from cai.train.main import train
from cai.train.plan import METRICS, PLAN, TrainPlan
from tests.tiny_model import build_model, write_pairs

ROOT = Path(__file__).parent.parent
ROBUST = {"args": {"loss_type": "robust", "label_smoothing": "measured"}}


def config_of(folder: Path, **changes: Any) -> RunConfig:
    """A config whose policy is a folder of weights that a managed engine would serve, read from a file."""
    text: dict[str, Any] = {
        "name": "run",
        "outputs": str(folder / "outputs"),
        "constitution": str(ROOT / "constitutions" / "toy.yaml"),
        "prompts": [{"path": str(folder / "prompts.jsonl")}],
        "models": {"m": {"backend": "vllm", "model": str(folder / "base"), "managed": {}}},
        "policy": {"model": "m"},
        "critic": {"model": "m"},
        "judge": {"model": "m", "threshold": 0.7},
    }
    (folder / "prompts.jsonl").write_text('{"prompt": "How do I bake bread?"}\n')
    (folder / "run.yaml").write_text(yaml.safe_dump(text | changes))
    return load_config(folder / "run.yaml", [])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ppo": {}}, "ppo: TRL 1.16 has no PPO; 'rloo' and 'grpo' train against the same 'reward' model"),
        ({"simpo": {}}, "simpo: SimPO is a loss of CPO"),
        ({"ipo": {}}, "ipo: IPO is a loss of DPO"),
        ({"rloo": {}}, "rloo: is rewarded by the run's own reward model; add a 'reward' section"),
        ({"sft": {"soft_labels": True}}, "sft.soft_labels: unknown key"),
        ({"dpo": {"soft_labels": 0.3}}, "dpo.soft_labels: .*above 0.5 and up to 1, or true"),
        ({"recipe": "paper", "sft": {}}, "needs both 'sft' and 'dpo' sections"),
        ({"recipe": "paper", "kto": {}}, "needs both 'sft' and 'dpo' sections"),
    ],
)
def test_sections_are_refused_by_name(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """What is not there, what is called otherwise, and what lacks another section."""
    with pytest.raises(ConfigError, match=problem):
        config_of(tmp_path, **changes)


@pytest.mark.parametrize("kind", POLICIES)
def test_names_of_trained_policies_are_kept(kind: Kind, tmp_path: Path) -> None:
    """A model of the config cannot be called what a trained one will be; a reward model is never served."""
    models = {name: {"backend": "vllm", "model": "w", "managed": {}} for name in ("m", kind, "reward")}
    with pytest.raises(ConfigError, match=f"the name '{kind}' is kept"):
        config_of(tmp_path, models=models, kto={}, reward={})


def test_each_starts_from_the_sft_model_but_two(tmp_path: Path) -> None:
    """All kinds in one run, in order; SFT and ORPO, which includes it, start from the policy's own weights."""
    config = config_of(tmp_path, recipe="paper", **{kind: {} for kind in KINDS})
    assert config.trained == KINDS and config.policies == POLICIES
    asked: list[tuple[str, str]] = []

    async def note(config: RunConfig, model: str, base: str) -> dict[str, Any]:
        asked.append((model, base))
        return {"skipped": True}

    for kind in config.trained:
        asyncio.run(train_one(config, kind, HERE._replace(train=note)))
    base, sft = str(tmp_path / "base"), str(checkpoint(config, "sft"))
    assert asked == [(kind, base if kind in ("sft", "orpo") else sft) for kind in KINDS]
    without = config.model_copy(update={"sft": None})
    asyncio.run(train_one(without, "kto", HERE._replace(train=note)))
    assert asked[-1] == ("kto", base)


def test_trained_policies_are_planned_and_shown(tmp_path: Path) -> None:
    """Each answers the held-out prompts; the reward model, which writes nothing, does not."""
    held = {"sources": [{"path": str(tmp_path / "prompts.jsonl")}], "grader": "judge"}
    config = config_of(tmp_path, evaluate=held, kto={}, reward={}, grpo={})
    shares = Shares(1, 1, 1, 1, 1, "given")
    calls = calls_a_prompt(config, load_constitution(config.constitution), shares)
    stages = {call.stage for call in calls}
    assert {name for name in stages if name.startswith("evaluate")} == {
        "evaluate-base", "evaluate-kto", "evaluate-grpo",
    }  # fmt: skip
    rate = {"rate": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    table = evaluation_table({name: {"harmless": rate} for name in ("grpo", "base", "kto")})
    assert list(table.columns[0].cells) == ["base", "kto", "grpo"]


def measured_run(folder: Path, **judge: Any) -> RunConfig:
    """A run whose judge has been measured: it keeps 36 of 40 labelled pairs, 6 of them with the wrong label."""
    judge = {"model": "m", "threshold": 0.7, "require_qualification": True, **judge}
    config = config_of(folder, judge=judge, dpo=ROBUST)
    sides = [0.95] * 30 + [0.1] * 6 + [0.55] * 4
    rows = [
        Recorded(
            id=f"r{n}", prompt=(Message(role="user", content=f"question {n}"),), a="yes", b="no", gold="A",
            judge="m", p_a_ab=p, p_a_ba=p,
        )
        for n, p in enumerate(sides)
    ]  # fmt: skip
    write_rows(shard_paths(config.root, qualify_stage("m"), 0).rows, rows)
    return config


def test_flip_rate_is_the_one_measured(tmp_path: Path) -> None:
    """Of a gated run: counted by hand; it is a plain number in the section, and so in plan and digest."""
    config = measured_run(tmp_path)
    assert config.dpo is not None
    check_measured(config)
    found = with_measured(config, "dpo", config.dpo)
    assert found.args == {"loss_type": "robust", "label_smoothing": pytest.approx(6 / 36)}
    plain = config.dpo.model_copy(update={"args": {"beta": 0.2}})
    assert with_measured(config, "dpo", plain) is plain


def test_flip_rate_of_a_calibration(tmp_path: Path) -> None:
    """Out of fold, at the threshold of the run; measured at another one, or not at all, it is refused."""
    config = to_measure(measured_run(tmp_path))
    assert config.dpo is not None
    summary = summary_of(config, "temperature")
    write_calibration(tmp_path / "c.json", calibration_of(config, "temperature", summary))

    def with_judge(**changes: Any) -> RunConfig:
        return config.model_copy(update={"judge": config.judge.model_copy(update=changes)})

    calibrated = with_judge(calibration=str(tmp_path / "c.json"))
    assert summary.accuracy_at_threshold is not None
    args = with_measured(calibrated, "dpo", config.dpo).args
    assert args["label_smoothing"] == pytest.approx(1 - summary.accuracy_at_threshold)
    with pytest.raises(
        ConfigError, match=r"measured with labels kept from 0\.7, this run keeps them from 0\.8"
    ):
        check_measured(with_judge(calibration=str(tmp_path / "c.json"), threshold=0.8))
    with pytest.raises(
        ConfigError, match=r"dpo\.args\.label_smoothing: measured: nothing measures this run's"
    ):
        check_measured(config)


@pytest.mark.slow
def test_reward_model_trains_and_rewards_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPO robust at the measured rate, a reward model, and GRPO against it; all as a run, but in this process."""

    def here(command: Sequence[str], **how: Any) -> int:
        plan = next(Path(part) for part in command if part.endswith(PLAN))
        train(TrainPlan.model_validate(yaml.safe_load(plan.read_text())))
        how["on_poll"]()
        return 0

    monkeypatch.setattr("cai.train.launch.supervise", here)
    build_model(tmp_path / "base")
    args = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
    sampled = {"max_completion_length": 4, "num_generations": 4}
    config = config_of(
        tmp_path, judge=measured_run(tmp_path).judge.model_dump(), dpo={"args": args | ROBUST["args"]},
        reward={"args": args}, grpo={"args": args | sampled},
    )  # fmt: skip
    data = part_file(config.root, "preference")
    data.parent.mkdir(parents=True)
    write_pairs(data)
    for kind in config.trained:
        asyncio.run(train_one(config, kind, HERE))
    plan = yaml.safe_load((checkpoint(config, "dpo") / PLAN).read_text())
    assert plan["args"]["label_smoothing"] == pytest.approx(6 / 36)
    plan = yaml.safe_load((checkpoint(config, "grpo") / PLAN).read_text())
    assert plan["reward_model"] == str(checkpoint(config, "reward"))
    lines = (checkpoint(config, "grpo") / METRICS).read_text().splitlines()
    assert all("reward" in json.loads(line) for line in lines) and len(lines) == 2
    (config.root / "config.json").write_text(config.model_dump_json())
    assert list(run_status(config.root)["training"]) == ["dpo", "reward", "grpo"]
