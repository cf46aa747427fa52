"""`cai benchmark`: lm-evaluation-harness on a run's models, with a task of our own that needs no network."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cai.config import RunConfig
from cai.config_file import load_config
from cai.errors import ConfigError
from cai.evaluate import benchmark as module
from cai.evaluate.benchmark import Measured, Score, benchmark, folders, read_results

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "flows" / "configs" / "embedded.yaml")
TASK = """
task: kindness
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def configured(tmp_path: Path, *changes: str) -> RunConfig:
    return load_config(CONFIG, [f"outputs={tmp_path}", "name=run", *changes])


@pytest.fixture
def trained(tmp_path: Path) -> RunConfig:
    """A run whose SFT model is there, and whose DPO model is not."""
    (tmp_path / "run" / "models").mkdir(parents=True)
    (tmp_path / "run" / "models" / "sft").symlink_to(ROOT / "cai" / "embedded" / "weights")
    return configured(tmp_path)


@pytest.mark.slow
def test_a_task_on_a_trained_model(trained: RunConfig, tmp_path: Path) -> None:
    """The tiny model answers yes rather than gibberish, in the harness's own figures; a second call starts nothing."""
    rows = tmp_path / "rows.jsonl"
    choices = [" Yes.", " qxjv zzkw vvqx jjzz wwkq xxvz."]
    docs = [{"question": f"Tell me about {n}.", "choices": choices, "answer": 0} for n in range(6)]
    rows.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "kindness.yaml").write_text(TASK.replace("ROWS", str(rows)))
    command = [
        sys.executable, "-m", "cai", "benchmark", CONFIG, "--set", f"outputs={tmp_path}", "--set", "name=run",
        "--tasks", "kindness", "--model", "sft", "--json", "--",
        "--include_path", str(tmp_path / "tasks"), "--limit", "4",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}

    def run() -> tuple[dict[str, Any], str]:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    found, said = run()
    assert said.splitlines() == ["sft: kindness"]
    score = found["sft"]["scores"]["kindness"]["acc"]
    assert (score["value"], score["n"], score["higher_is_better"]) == (1.0, 4, True)
    again, said = run()
    assert (again, said) == (found, "")


def test_models_that_are_not_there(trained: RunConfig, tmp_path: Path) -> None:
    """What is trained is measured, in order; a name that is not there is refused with those that are."""
    weights = str(Path("cai/embedded/weights"))
    assert folders(trained, []) == {"base": weights, "sft": str(tmp_path / "run" / "models" / "sft")}
    assert list(folders(trained, ["sft"])) == ["sft"]
    with pytest.raises(ConfigError, match=r"--model dpo: not a model of .*there are base, sft"):
        folders(trained, ["sft", "dpo"])


def test_what_the_harness_is_told_here(trained: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that would point it elsewhere are refused; without it, one line says what to install."""
    for given in ("--tasks", "--model_args=pretrained=x", "--output_path"):
        with pytest.raises(ConfigError, match=r"not to be set here"):
            benchmark(trained, ["kindness"], [], [given], print)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'cai\[benchmarks\]'"):
        benchmark(trained, ["kindness"], [], [], print)


def test_only_what_is_missing_is_run(trained: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task is run alone; other options or other weights mean all of it again."""
    asked: list[list[str]] = []

    def pretend(config: RunConfig, name: str, model: str, tasks: list[str], options: list[str]) -> Any:
        asked.append(list(tasks))
        return {task: {"acc": Score(value=0.5, stderr=None, higher_is_better=True, n=1)} for task in tasks}

    monkeypatch.setattr(module, "_run", pretend)
    for tasks, options in ((["a"], []), (["a", "b"], []), (["b", "a"], []), (["a"], ["--limit", "3"])):
        found = benchmark(trained, tasks, ["sft"], options, lambda line: None)
        assert set(found["sft"].scores) >= set(tasks)
    assert asked == [["a"], ["b"], ["a"]]


def test_defaults_yield_to_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine by the machine, and a chat template; each can be told otherwise."""
    monkeypatch.setattr(module, "has_gpu", lambda: False)
    assert module._defaults([]) == [
        "--model", "hf", "--apply_chat_template", "--batch_size", "8", "--device", "cpu",
    ]  # fmt: skip
    assert module._defaults(["--model=vllm", "--batch_size", "1", "--apply_chat_template=x"]) == [
        "--device",
        "cpu",
    ]
    monkeypatch.setattr(module, "has_gpu", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert module._defaults([])[:2] == ["--model", "vllm"]


def test_results_as_the_harness_writes_them() -> None:
    """Several filters of one metric, an error that it does not give, what is no number, and a group."""
    results = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k", "sample_len": 50,
                "exact_match,strict-match": 0.4, "exact_match_stderr,strict-match": 0.07,
                "exact_match,flexible-extract": 0.5, "exact_match_stderr,flexible-extract": "N/A",
            },
            "both": {"alias": "both", "acc,none": 0.25, "acc_stderr,none": 0.1, "sample_len": 20},
        },
        "higher_is_better": {"gsm8k": {"exact_match": True}, "both": {"acc": None}},
    }  # fmt: skip
    assert read_results(results) == {
        "gsm8k": {
            "exact_match (strict-match)": Score(value=0.4, stderr=0.07, higher_is_better=True, n=50),
            "exact_match (flexible-extract)": Score(value=0.5, stderr=None, higher_is_better=True, n=50),
        },
        "both": {"acc": Score(value=0.25, stderr=0.1, higher_is_better=None, n=20)},
    }


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Models across; a task that one of them was not measured on is a dash, and names cannot steer the terminal."""
    from rich.console import Console

    from cai.cli.benchmark import table

    def measured(**scores: Score) -> Measured:
        return Measured(
            digest="", tasks=tuple(scores), scores={task: {"acc": score} for task, score in scores.items()}
        )

    up = Score(value=0.5, stderr=0.125, higher_is_better=True, n=4)
    found = {
        "base": measured(a=up),
        "dpo": measured(a=up, **{"[red]\x1b[2J": up.model_copy(update={"stderr": None})}),
    }
    Console(width=100).print(table(found))
    said = capsys.readouterr().out
    assert "│ a         │ acc ↑  │ 0.500 ± 0.125 │ 0.500 ± 0.125 │" in said
    assert "│ [red]\N{REPLACEMENT CHARACTER}[2J │ acc ↑  │             – │         0.500 │" in said
