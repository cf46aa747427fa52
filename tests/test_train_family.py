"""Every member of the family trains for real: one process, a few steps each on one batch, on a tiny Qwen3."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cai.config import Kind, TrainingConfig
from cai.config.training import section_type
from cai.errors import ConfigError
from cai.train.folder import prepare_folder
from cai.train.main import train
from cai.train.plan import METRICS, REPORT, make_plan
from tests.tiny_model import build_model, write_demonstrations, write_pairs

pytestmark = pytest.mark.slow

STEPS = 6
COMMON: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
    "save_steps": 3,
    "save_total_limit": 2,
}
SAMPLED = {"max_completion_length": 8, "num_generations": 8}
# What each needs beside COMMON.
ARGS: dict[Kind, dict[str, Any]] = {
    "sft": {},
    "dpo": {},
    "kto": {},
    "orpo": {},
    "cpo": {},
    "reward": {},
    "rloo": SAMPLED,
    "grpo": SAMPLED,
}
REWARDED = ("rloo", "grpo")
# A member of the family, the options that make it, and the loss of a policy that is still its reference.
LOSSES: dict[str, tuple[Kind, dict[str, Any], float | None]] = {
    "sigmoid": ("dpo", {}, 0.6931),
    "ipo": ("dpo", {"args": {"loss_type": "ipo"}}, 25.0),
    "robust": ("dpo", {"args": {"loss_type": "robust", "label_smoothing": 0.2}}, 0.6931),
    "conservative": ("dpo", {"soft_labels": 0.8}, 0.6931),
    "soft": ("dpo", {"soft_labels": True}, 0.6931),
    "rpo": ("dpo", {"args": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}}, None),
    "length-normalised": ("dpo", {"args": {"loss_type": "sigmoid_norm", "beta": 2.0}}, 0.6931),
    "ld": ("dpo", {"args": {"ld_alpha": 0.0}}, 0.6931),
    "simpo": ("cpo", {"args": {"loss_type": "simpo", "cpo_alpha": 0.0}}, None),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the starting model, one batch of each kind of rows, and every model that is trained from them."""
    root = tmp_path_factory.mktemp("family")
    build_model(root / "base")
    for name, write in (("preference", write_pairs), ("sft", write_demonstrations)):
        write(root / f"{name}.jsonl")
        lines = (root / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (root / f"{name}.jsonl").write_text("".join(lines[:8]))
    return root


def run(made: Path, kind: Kind, name: str, part: str = "", **section: Any) -> list[dict[str, Any]]:
    """Train into the folder `name`, or go on there; returns its metrics."""
    section["args"] = COMMON | ARGS[kind] | section.get("args", {})
    data = made / f"{part or ('sft' if kind == 'sft' else 'preference')}.jsonl"
    plan = make_plan(
        kind, model=str(made / "base"), data=data, out=made / name, seed=1,
        config=section_type(kind).model_validate(section),
        reward_model=str(ensure(made, "reward")) if kind in REWARDED else None,
    )  # fmt: skip
    train(prepare_folder(plan))
    return [json.loads(line) for line in (made / name / METRICS).read_text().splitlines()]


def ensure(made: Path, name: str) -> Path:
    """The folder of a training, which is done now unless a test before has done it."""
    if not (made / name / REPORT).exists():
        kind, section, _ = LOSSES.get(name, (name, {}, None))
        run(made, kind, name, **section)  # type: ignore[arg-type]
    return made / name


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def interrupt(folder: Path) -> None:
    """Leave the folder as a kill in the fourth step would have left it."""
    (folder / "work" / f"checkpoint-{STEPS}").rename(folder.parent / "gone")
    shutil.rmtree(folder.parent / "gone")
    for name in (REPORT, "model.safetensors"):
        (folder / name).unlink()


@pytest.mark.parametrize("kind", list(ARGS))
def test_each_kind_trains_publishes_and_resumes(kind: Kind, made: Path) -> None:
    """Loss (or reward) moves, the folder loads in the base's dtype, and a resumed training ends in the same bytes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    records = run(made, kind, kind)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    if kind in REWARDED:
        assert records[0]["kl"] == pytest.approx(0, abs=1e-6) and abs(records[-1]["kl"]) > 1e-4
        assert all("reward" in record for record in records)
    else:
        assert records[-1]["loss"] < 0.95 * records[0]["loss"]
    loader = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    model, loading = loader.from_pretrained(made / kind, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    template = AutoTokenizer.from_pretrained(made / "base").chat_template
    assert AutoTokenizer.from_pretrained(made / kind).chat_template == template
    ours, theirs = (json.loads((made / name / "config.json").read_text()) for name in (kind, "base"))
    assert (ours == theirs) == (kind != "reward")
    assert weights(made / kind) != weights(made / "base")

    whole = weights(made / kind)
    interrupt(made / kind)
    assert run(made, kind, kind)[-1]["step"] == STEPS
    assert json.loads((made / kind / REPORT).read_text())["resumed_from"] == 3
    assert weights(made / kind) == whole


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_reachable_by_name(name: str, made: Path) -> None:
    """Each starts at its own value, goes down, and ends elsewhere than the plain loss of its trainer."""
    kind, section, start = LOSSES[name]
    records = run(made, kind, name, **section)
    if start is not None:
        assert records[0]["loss"] == pytest.approx(start, abs=1e-3)
    assert records[-1]["loss"] < 0.98 * records[0]["loss"]
    if name != "sigmoid":
        assert weights(made / name) != weights(ensure(made, "sigmoid" if kind == "dpo" else kind))


def test_soft_labels_resume(made: Path) -> None:
    """After a kill each pair still has its own p: the same bytes in the end."""
    whole = weights(ensure(made, "soft"))
    interrupt(made / "soft")
    run(made, "dpo", "soft", soft_labels=True)
    assert json.loads((made / "soft" / REPORT).read_text())["resumed_from"] == 3
    assert weights(made / "soft") == whole


@pytest.mark.parametrize("kind", ["kto", "orpo", "reward", "grpo"])
def test_adapters_are_merged_and_kept(kind: Kind, made: Path) -> None:
    """LoRA: full weights in the folder, the adapter beside them; a reward model's head is trained with it."""
    run(made, kind, f"{kind}-lora", lora={"r": 4})
    folder = made / f"{kind}-lora"
    assert sorted(path.name for path in (folder / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    names = set(tensors(folder))
    assert names == set(tensors(ensure(made, "reward") if kind == "reward" else made / "base"))
    assert not any("lora" in name for name in names)


def tensors(folder: Path) -> dict[str, Any]:
    """The weights of a folder by name."""
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / "model.safetensors")
    return found


def test_reward_model_prefers_what_was_chosen(made: Path) -> None:
    """The published folder scores the replies of its own batch, by more than chance would."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = ensure(made, "reward")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def score(prompt: list[dict[str, str]], reply: list[dict[str, str]]) -> float:
        text = tokenizer.apply_chat_template(prompt + reply, tokenize=False)
        with torch.no_grad():
            return float(model(**tokenizer(text, return_tensors="pt")).logits[0, 0])

    rows = [json.loads(line) for line in (made / "preference.jsonl").read_text().splitlines()]
    better = [score(r["prompt"], r["chosen"]) > score(r["prompt"], r["rejected"]) for r in rows]
    assert sum(better) >= 7


def test_margin_of_each_pair_is_used(made: Path) -> None:
    """A reward model of pairs that are hardly certain is another one, and its loss starts lower."""
    text = (made / "preference.jsonl").read_text()
    (made / "even.jsonl").write_text(text.replace('"margin":2.197', '"margin":0.01'))
    even = run(made, "reward", "even", part="even")
    sure = [json.loads(line) for line in (ensure(made, "reward") / METRICS).read_text().splitlines()]
    assert even[0]["loss"] < sure[0]["loss"] - 0.5


@pytest.mark.parametrize("kind", list(ARGS))
def test_options_are_checked_for_each_kind(kind: Kind) -> None:
    """Before anything is paid: what trains above is taken, a slip is named with the option that was meant."""
    from cai.train.options import check_section

    check_section(kind, TrainingConfig(args=COMMON | ARGS[kind], lora={"r": 4}))
    with pytest.raises(
        ConfigError, match=rf"^{kind}\.args\.max_step: unknown option; did you mean 'max_steps'"
    ):
        check_section(kind, TrainingConfig(args={"max_step": 1}))


@pytest.mark.parametrize("kind", [kind for kind in ARGS if kind != "sft"])
def test_demonstrations_are_refused_by_name(kind: Kind, made: Path) -> None:
    """The other part of the dataset says which one is wanted."""
    with pytest.raises(
        ConfigError, match=rf"row 1: lacks 'chosen'; {kind} takes the dataset's preference rows"
    ):
        run(made, kind, f"{kind}-wrong", part="sft")


def test_missing_margin_is_refused(made: Path) -> None:
    """Rows of another making, and one whose margin is no number."""
    rows = [json.loads(line) for line in (made / "preference.jsonl").read_text().splitlines()]
    for change, problem in (({}, "lacks 'margin'"), ({"margin": None}, "None is no number")):
        bare = [{name: value for name, value in row.items() if name != "margin"} | change for row in rows]
        (made / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
        with pytest.raises(ConfigError, match=f"row 1: {problem}; reward takes"):
            run(made, "reward", "bare", part="bare")


def test_kto_takes_each_reply_once_a_label_and_mixes_them(made: Path) -> None:
    """A reply in two pairs counts once; desirable and undesirable ones do not come in blocks."""
    from cai.models.turns import NOTHING
    from cai.train.data import prompts, unpaired

    text = (made / "preference.jsonl").read_text()
    (made / "twice.jsonl").write_text(text + text)
    common: dict[str, Any] = {"model": str(made / "base"), "data": made / "twice.jsonl", "seed": 1}
    plan = make_plan("kto", out=made / "rows", config=TrainingConfig(), **common)
    labels = unpaired(plan, NOTHING)["label"]
    assert sorted(labels) == [False] * 8 + [True] * 8
    assert list(labels) not in ([True] * 8 + [False] * 8, [True, False] * 8)
    assert len(prompts(plan, NOTHING)) == 8


def test_reward_model_is_needed_and_must_be_one(made: Path) -> None:
    """None, one for a kind that takes none, and a model that writes instead of scoring."""

    def attempt(kind: Kind, reward_model: str | None) -> None:
        make_plan(
            kind, model=str(made / "base"), data=made / "preference.jsonl", out=made / "x",
            config=TrainingConfig(), seed=0, reward_model=reward_model,
        )  # fmt: skip

    with pytest.raises(ConfigError, match="rloo: needs a reward model; train one with 'reward'"):
        attempt("rloo", None)
    with pytest.raises(ConfigError, match="orpo: takes no reward model; only rloo and grpo do"):
        attempt("orpo", str(made / "base"))
    with pytest.raises(ConfigError, match="base is no reward model"):
        attempt("grpo", str(made / "base"))
