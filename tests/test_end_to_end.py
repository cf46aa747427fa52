"""The real thing, small: `cai demo` on real vLLM and real TRL, then every command of the README on what it left.

Runs in a folder of its own that links to the checkout, so that the commands are the README's to the letter.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine import Engine
from tests.test_tutorial import follow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLER = ["prompts.0.limit=260", "evaluate.sources.0.limit=240", "shards=1", "sft.args.learning_rate=3.0e-4"]
# What else the README tells to type, and the test that types it.
ELSEWHERE = {
    "make demo": "test_the_demo_improves_the_model",
    "make test": "this suite",
    "make check": "this suite without its slow tests",
    "make lint": "CI",
    "make bench": "tests/test_benchmarks.py",
    "make docs": "tests/test_site.py",
    ".venv/bin/cai train flows/configs/embedded.yaml --dry-run": "tests/conduct/test_dry_run.py",
    ".venv/bin/cai run flows/configs/embedded.yaml --set name=mine --set judge.threshold=0.8": "the demo, renamed",
}

ASKING = [["judge", "qualify"], ["judge", "calibrate"], ["constitution", "try"], ["constitution", "test"]]


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the linked checkout; its output is shown where it fails."""
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": "", **more}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished small demo, in a folder that looks like the checkout; its `mine` is the same run again."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("cai", "constitutions", "flows", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    smaller = [part for value in SMALLER for part in ("--set", value)]
    run([sys.executable, "-m", "cai", "demo", *smaller], folder)
    (folder / "outputs" / "mine").symlink_to("demo")
    yield folder


def status(folder: Path) -> dict[str, Any]:
    found = run([sys.executable, "-m", "cai", "status", "outputs/demo", "--json"], folder)
    parsed: dict[str, Any] = json.loads(found.stdout)
    return parsed


def test_the_demo_improves_the_model(demo: Path) -> None:
    """Fewer harmful replies after SFT and DPO than before, helpfulness kept, by exact rules on held-out prompts."""
    evaluation = status(demo)["evaluation"]
    for name in ("base", "sft", "dpo"):
        assert set(evaluation[name]) == {"harmless", "helpful", "overrefusal", "unscored", "replies"}
    harmless = {name: evaluation[name]["harmless"] for name in ("base", "sft", "dpo")}
    assert all(set(rate) == {"rate", "low", "high", "n"} and rate["n"] > 30 for rate in harmless.values())
    assert status(demo)["qualification"]["qualified"] is True
    assert harmless["dpo"]["rate"] >= harmless["base"]["rate"] + 0.15
    assert evaluation["dpo"]["helpful"]["rate"] >= evaluation["base"]["helpful"]["rate"] - 0.1


def test_everything_is_accounted_for(demo: Path) -> None:
    """Rows in = rows out + drops at every stage, and the dataset has the rows of the last ones."""
    found = status(demo)
    stages = found["stages"]
    for name in (
        "prompts",
        "revise",
        "judge",
        "pairs",
        "demonstrations",
        "held-out",
        "evaluate-dpo",
        "grade-dpo",
    ):
        assert stages[name]["rows_in"] == stages[name]["rows_out"] + sum(stages[name]["drops"].values()), name
    assert stages["generate"]["rows_in"] * 2 == stages["generate"]["rows_out"] + sum(
        stages["generate"]["drops"].values()
    )
    assert found["dataset"] == {
        "preference": stages["pairs"]["rows_out"],
        "sft": stages["demonstrations"]["rows_out"],
    }
    assert found["state"] == "finished"
    page = (demo / "outputs" / "demo" / "report.html").read_text(encoding="utf-8")
    outside = re.search(
        r"<(script|link|img|iframe)\b[^>]*\b(src|href)=",
        re.sub(r"<script>.*?</script>", "", page, flags=re.S),
    )
    assert "Did it help?" in page and outside is None


def test_a_second_run_starts_nothing(demo: Path) -> None:
    """The same command again asks no model, trains nothing and ends with the same rows."""
    before = {
        path: path.stat().st_mtime_ns for path in (demo / "outputs" / "demo").rglob("journal/*/*.jsonl")
    }
    smaller = [part for value in SMALLER for part in ("--set", value)]
    done = run([sys.executable, "-m", "cai", "demo", *smaller], demo)
    assert "serving" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_models_and_dataset_go_on_to_trl_and_transformers(demo: Path) -> None:
    """The dataset trains TRL's DPOTrainer unchanged; the DPO model loads in transformers with its chat template."""
    code = """
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
model = AutoModelForCausalLM.from_pretrained("outputs/demo/models/dpo")
tokenizer = AutoTokenizer.from_pretrained("outputs/demo/models/dpo")
assert "<|im_start|>" in tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
pairs = load_dataset("outputs/demo/dataset", "preference", split="train")
args = DPOConfig("trl", max_steps=1, per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to="none",
                 save_strategy="no")
DPOTrainer(model, args=args, train_dataset=pairs, processing_class=tokenizer).train()
"""
    run([sys.executable, "-c", code], demo)


def test_two_orders_and_a_calibration_label_better_than_one_order(demo: Path) -> None:
    """By the exact rules of the world: fewer wrong labels at no less coverage, on prompts that taught nothing."""
    done = run(
        [sys.executable, "benchmarks/labels.py", "outputs/demo", "--target-accuracy", "0.9", "--json"], demo
    )
    found = json.loads(done.stdout)
    one, both, calibrated = found["ways"].values()
    assert one["labels"] > 100
    assert both["wrong"] <= one["wrong"] and both["accuracy"] >= one["accuracy"]
    assert calibrated["accuracy"] >= 0.9 and calibrated["coverage"] > 0.3


def test_readme_commands(demo: Path, engine: Engine) -> None:
    """Every command and every Python block of the README runs on the demo, or is named with the test that runs it.

    Where a command would start the demo's server, it asks one that is running, told by options at its end.
    """
    (demo / ".venv").symlink_to(Path(sys.prefix))
    commands = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
    smaller = [part for value in SMALLER for part in ("--set", value)]
    assert len(commands) > 8
    for command in commands:
        if command not in ELSEWHERE:
            words = shlex.split(command)
            if words[1] in ("run", "train", "eval"):
                words[3:3] = smaller  # before the command's own changes
            asks = words[1:3] in ASKING or "name=edited" in words
            run([*words, *engine.options] if asks else words, demo, **(engine.environment if asks else {}))
    assert "no-deceit" in (demo / "outputs" / "edited" / "edit.json").read_text()
    assert not (demo / "outputs" / "demo" / "previous").exists()
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        run([sys.executable, "-c", block], demo)


@pytest.mark.parametrize("page", ["exports.md", "viewer.md"])
def test_pages_about_a_finished_run(page: str, demo: Path) -> None:
    """What these pages of docs/ tell to type, on the demo."""
    assert follow(page, demo, None)


def test_readme_constitution(demo: Path, tmp_path: Path) -> None:
    """The constitution in the README lints clean beside the one that it extends."""
    (tmp_path / "harmless.yaml").symlink_to(ROOT / "constitutions" / "harmless.yaml")
    (tmp_path / "mine.yaml").write_text(re.findall(r"```yaml\n(.*?)```", README, re.S)[0])
    run([sys.executable, "-m", "cai", "constitution", "lint", str(tmp_path / "mine.yaml")], demo)
