"""The card of a trained model: metadata that hubs read, lineage, and the figures of the evaluation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from cai.config import Kind, RunConfig
from cai.config_file import load_config
from cai.constitution import load_constitution
from cai.intervals import difference, rate
from cai.report.model_card import write_model_cards
from cai.store import write_json
from cai.train.plan import PLAN, REPORT

ROOT = Path(__file__).parent.parent


def config_of(folder: Path, policy: str) -> RunConfig:
    """A run that trains SFT, DPO and a reward model from this policy."""
    text = {
        "name": "card",
        "outputs": str(folder / "outputs"),
        "constitution": str(ROOT / "constitutions" / "toy.yaml"),
        "prompts": [{"path": str(folder / "prompts.jsonl")}],
        "models": {"m": {"backend": "vllm", "model": policy, "endpoint": "http://127.0.0.1:1"}},
        "policy": {"model": "m"},
        "critic": {"model": "m"},
        "judge": {"model": "m"},
    }
    (folder / "prompts.jsonl").write_text('{"prompt": "How do I bake bread?"}\n')
    (folder / "run.yaml").write_text(yaml.safe_dump(text))
    return load_config(folder / "run.yaml", [])


def trained(config: RunConfig, kind: Kind, **report: Any) -> None:
    """What a training leaves in its folder."""
    folder = config.root / "models" / kind
    folder.mkdir(parents=True)
    plan = {"model": "org/base", "data": str(config.root / "dataset" / "preference" / "train.jsonl")}
    (folder / PLAN).write_text(yaml.safe_dump(plan))
    found = {
        "steps": 7,
        "loss": 0.25,
        "data_sha256": "d" * 64,
        "model_digest": "org/base@main",
        "digest": "p" * 64,
        "versions": {"trl": "1.16.0"},
    }
    write_json(folder / REPORT, found | report)


def evaluation() -> dict[str, Any]:
    """An evaluation of base and DPO in which one metric had no prompts."""
    none = asdict(rate(0, 0))
    model = {"harmless": asdict(rate(9, 10)), "overrefusal": none, "unscored": {}}
    better = {"harmless": asdict(rate(10, 10)), "overrefusal": none, "unscored": {}}
    changes = {
        "harmless": asdict(difference([True] * 10, [True] * 9 + [False])),
        "overrefusal": asdict(difference([], [])),
    }
    return {"base": model, "dpo": better, "changes": {"dpo": changes}}


def test_a_card_has_lineage_metadata_and_figures(tmp_path: Path) -> None:
    """Hubs can read the header, and every figure is one of the evaluation; what was not measured is a dash."""
    config = config_of(tmp_path, "org/base")
    trained(config, "dpo", found={"rows": {"rows": 830, "longest": 61}})
    (path,) = write_model_cards(config, ["sft", "dpo"], evaluation())
    assert path == config.root / "models" / "dpo" / "README.md"
    card = ModelCard.load(path)
    assert card.data.base_model == "org/base"
    assert {"dpo", "trl"} <= set(card.data.tags)
    assert card.data.eval_results is not None
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results] == [("harmless", 1.0)]
    text = path.read_text()
    for piece in (
        load_constitution(config.constitution).digest,
        "d" * 64,
        "org/base@main",
        "7 steps",
        "0.2500",
    ):
        assert piece in text
    assert "| dpo | 100.0 % (" in text
    assert "- harmless +10.0 points (" in text
    assert "overrefusal" not in text
    assert str(tmp_path) not in text


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    """No evaluation, no figures; a base that is a folder has no name on a hub; a reward model is not generated with."""
    (tmp_path / "base").mkdir()
    config = config_of(tmp_path, str(tmp_path / "base"))
    for kind in ("dpo", "reward"):
        trained(config, kind, loss=None)
    dpo, reward = write_model_cards(config, ["dpo", "reward"], {})
    assert "Not evaluated." in dpo.read_text()
    assert "last loss" not in dpo.read_text()
    assert ModelCard.load(dpo).data.base_model is None
    assert ModelCard.load(dpo).data.eval_results is None
    assert ModelCard.load(reward).data.pipeline_tag == "text-classification"
    assert "vllm serve" not in reward.read_text()


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_an_unfinished_training_gets_no_card(kind: Kind, tmp_path: Path) -> None:
    """A folder without its report is no model yet."""
    config = config_of(tmp_path, "org/base")
    (config.root / "models" / kind).mkdir(parents=True)
    assert write_model_cards(config, [kind], {}) == []
