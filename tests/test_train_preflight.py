"""What is found out before the first step: rows too long, pairs alike, templates, disk and memory; all by trainings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cai.config import Kind
from cai.config.training import section_type
from cai.errors import ConfigError
from cai.train.folder import prepare_folder, read_finished
from cai.train.main import train
from cai.train.plan import TrainPlan, TrainReport, make_plan
from tests.tiny_model import TEMPLATE, sentence

pytestmark = pytest.mark.slow

ONE_STEP: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 2, "save_strategy": "no"}
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m['content'] }}<|im_end|>\n{% endgeneration %}"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def pair(number: int, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": turn("user", sentence(number)), "chosen": turn("assistant", chosen),
        "rejected": turn("assistant", rejected), "margin": 1.0,
    }  # fmt: skip


def ordinary(count: int) -> list[dict[str, Any]]:
    return [pair(n, sentence(n + 1), sentence(n + 2, 9)) for n in range(count)]


def demonstrations(count: int) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ordinary(count)]


def plan_of(kind: Kind, base: Path, folder: Path, rows: list[dict[str, Any]], **section: Any) -> TrainPlan:
    data = folder / f"{len(list(folder.iterdir()))}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section["args"] = ONE_STEP | section.get("args", {})
    config = section_type(kind).model_validate(section)
    return prepare_folder(
        make_plan(kind, model=str(base), data=data, out=data.with_suffix(".out"), config=config, seed=0)
    )


def trained(plan: TrainPlan) -> TrainReport:
    train(plan)
    report = read_finished(Path(plan.out), plan.digest)
    assert report is not None and report.found is not None
    return report


def tokens_of(base: Path, row: dict[str, Any], *replies: str) -> int:
    """The longest side of a row as TRL's own tokenization has it."""
    from transformers import AutoTokenizer
    from trl.data_utils import _tokenize

    tokenizer = AutoTokenizer.from_pretrained(base)
    return max(len(_tokenize(tokenizer, row["prompt"] + row[reply])["input_ids"]) for reply in replies)


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto", "orpo", "cpo", "reward"])
def test_rows_that_would_be_cut_are_refused(kind: Kind, base: Path, tmp_path: Path) -> None:
    """Two long rows of 60 are too many: named with count, share, length and the value to set, which then trains."""
    if kind == "sft":
        rows = demonstrations(60)
        rows[7]["completion"] = turn("assistant", sentence(3, 30))
        rows[9]["completion"] = turn("assistant", sentence(4, 25))
        replies: tuple[str, ...] = ("completion",)
    else:
        rows = ordinary(60)
        rows[7]["rejected"] = turn("assistant", sentence(3, 30))
        rows[9]["chosen"] = turn("assistant", sentence(4, 25))
        replies = ("chosen", "rejected")
    limit = max(tokens_of(base, row, *replies) for n, row in enumerate(rows) if n not in (7, 9))
    longest = tokens_of(base, rows[7], *replies)
    # KTO counts each reply by itself.
    of = 120 if kind == "kto" else 60
    # ORPO and CPO add an end token where the template ends with a newline.
    more = 1 if kind in ("orpo", "cpo") else 0
    problem = (
        rf"2 of {of} rows \({2 / of:.1%}\) are longer than max_length {limit + more} and would be cut; the longest has "
        rf"{longest + more} tokens: set {kind}\.args\.max_length to {longest + more}"
    )
    with pytest.raises(ConfigError, match=problem):
        train(plan_of(kind, base, tmp_path, rows, args={"max_length": limit + more}))
    report = trained(plan_of(kind, base, tmp_path, rows, args={"max_length": longest + more}))
    assert report.found is not None and report.found.rows is not None
    assert report.found.rows.model_dump() == {
        "rows": of, "longest": longest + more, "max_length": longest + more, "cut": 0, "dropped": {},
    }  # fmt: skip


def test_lengths_are_those_of_the_trainer(base: Path, tmp_path: Path) -> None:
    """ORPO's and CPO's own tokenization, token for token, and TRL's shared one."""
    from transformers import AutoTokenizer
    from trl import DPOTrainer
    from trl.experimental.cpo import CPOTrainer

    from cai.models.turns import NOTHING
    from cai.train.data import pairs
    from cai.train.fit import loading
    from cai.train.lengths import checked_rows
    from cai.train.options import trl_config

    for kind, trainer in (("dpo", DPOTrainer), ("cpo", loading(CPOTrainer))):
        plan = plan_of(kind, base, tmp_path, ordinary(9))  # type: ignore[arg-type]
        tokenizer = AutoTokenizer.from_pretrained(base)
        args = trl_config(plan.kind, plan.args, str(plan.work))
        rows, counts = checked_rows(plan, args, tokenizer, pairs(plan, NOTHING))
        built = trainer(model=plan.model, args=args, train_dataset=rows, processing_class=tokenizer)
        loader = built.get_train_dataloader()
        width = {"dpo": ("input_ids",), "cpo": ("chosen_input_ids", "rejected_input_ids")}[kind]
        assert counts.longest == max(batch[name].shape[1] for batch in loader for name in width)


def test_one_percent_may_be_cut_and_is_reported(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row of 100: the training goes on, and the count is in log and report."""
    rows = ordinary(100)
    rows[40] = pair(40, sentence(1, 40), sentence(2, 40))
    limit = max(tokens_of(base, row, "chosen", "rejected") for n, row in enumerate(rows) if n != 40)
    report = trained(plan_of("dpo", base, tmp_path, rows, args={"max_length": limit}))
    assert report.found is not None and report.found.rows is not None
    assert (report.found.rows.cut, report.found.rows.dropped) == (1, {})
    longest = report.found.rows.longest
    assert f"rows: 100, longest {longest} tokens, 1 cut at max_length {limit}\n" in capsys.readouterr().out


def test_value_that_cuts_one_percent_is_accepted(base: Path, tmp_path: Path) -> None:
    """The lower of the two values in the refusal is enough, and one token less is not."""
    rows = ordinary(100)
    for place, length in ((3, 30), (50, 36), (51, 40)):
        rows[place] = pair(place, sentence(place, length), sentence(place + 1))
    lengths = sorted(tokens_of(base, row, "chosen", "rejected") for row in rows)
    with pytest.raises(
        ConfigError, match=rf"max_length to {lengths[-1]}, or to {lengths[-2]} to cut no more"
    ):
        train(plan_of("dpo", base, tmp_path, rows, args={"max_length": lengths[-4]}))
    trained(plan_of("dpo", base, tmp_path, rows, args={"max_length": lengths[-2]}))
    with pytest.raises(ConfigError, match=r"2 of 100 rows \(2\.0%\)"):
        train(plan_of("dpo", base, tmp_path, rows, args={"max_length": lengths[-2] - 1}))


def test_pairs_without_a_difference_are_left_out(base: Path, tmp_path: Path) -> None:
    """The same words, and what is the same as far as max_length reaches; counted by reason, and not trained on."""
    rows = ordinary(200)
    rows[5] = pair(5, "the same", "the same")
    rows[6] = pair(6, sentence(1, 60), sentence(1, 60) + " cats")
    limit = max(tokens_of(base, row, "chosen", "rejected") for n, row in enumerate(rows) if n != 6)
    plan = plan_of("dpo", base, tmp_path, rows, args={"max_length": limit})
    report = trained(plan)
    assert report.found is not None and report.found.rows is not None
    assert report.found.rows.dropped == {"identical": 1, "identical_when_cut": 1}
    with pytest.raises(ConfigError, match="no row is left to train on: 3 identical"):
        train(plan_of("orpo", base, tmp_path, [pair(n, "yes", "yes") for n in range(3)]))


def test_rows_without_a_reply_are_counted(base: Path, tmp_path: Path) -> None:
    """A prompt that fills max_length alone (SFT), and a reward model's pair that is too long: TRL says nothing."""
    rows = demonstrations(100)
    rows[3]["prompt"] = turn("user", sentence(1, 60))
    limit = max(tokens_of(base, row, "completion") for n, row in enumerate(rows) if n != 3)
    report = trained(plan_of("sft", base, tmp_path, rows, args={"max_length": limit}))
    assert report.found is not None and report.found.rows is not None
    assert report.found.rows.dropped == {"no_reply_left": 1}
    pairs = ordinary(100)
    pairs[3] = pair(3, sentence(1, 60), sentence(2))
    report = trained(plan_of("reward", base, tmp_path, pairs, args={"max_length": 60}))
    assert report.found is not None and report.found.rows is not None
    assert report.found.rows.dropped == {"too_long": 1}


def test_packing_that_splits_cuts_nothing(base: Path, tmp_path: Path) -> None:
    """A long row goes on in the next pack with `wrapped`; with `bfd` it is cut, so it is refused."""
    rows = demonstrations(20)
    rows[3]["completion"] = turn("assistant", sentence(1, 60))
    packed = {"packing": True, "max_length": 64, "packing_strategy": "wrapped"}
    report = trained(plan_of("sft", base, tmp_path, rows, args=packed))
    assert report.found is not None and report.found.rows is not None
    assert (report.found.rows.cut, report.found.rows.max_length) == (0, None)
    with pytest.raises(ConfigError, match=r"1 of 20 rows \(5\.0%\)"):
        train(plan_of("sft", base, tmp_path, rows, args=packed | {"packing_strategy": "bfd"}))


def test_assistant_only_loss_needs_markers(base: Path, tmp_path: Path) -> None:
    """Refused by name before the model is loaded; a template with markers trains."""
    rows = demonstrations(4)
    with pytest.raises(
        ConfigError, match=r"sft\.args\.assistant_only_loss: .* no \{% generation %\} markers"
    ):
        train(plan_of("sft", base, tmp_path, rows, args={"assistant_only_loss": True}))
    marked = tmp_path / "marked.jinja"
    marked.write_text(MARKED)
    how = {"assistant_only_loss": True, "chat_template_path": str(marked)}
    trained(plan_of("sft", base, tmp_path, rows, args=how))


def test_no_template_at_all(base: Path, tmp_path: Path) -> None:
    """Each trainer is told what it can do about it; a file of one is used and measured with."""
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="has no chat template; dpo needs a model that was trained to chat"):
        train(plan_of("dpo", bare, tmp_path, ordinary(4)))
    with pytest.raises(ConfigError, match=r"name one in sft\.args\.chat_template_path"):
        train(plan_of("sft", bare, tmp_path, demonstrations(4)))
    given = tmp_path / "given.jinja"
    given.write_text(TEMPLATE)
    rows = demonstrations(4)
    report = trained(plan_of("sft", bare, tmp_path, rows, args={"chat_template_path": str(given)}))
    assert report.found is not None and report.found.rows is not None
    assert report.found.rows.longest == max(tokens_of(base, row, "completion") for row in rows)


def test_disk_that_cannot_hold_the_checkpoints(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a checkpoint really takes is what was estimated; with less room it is refused with the numbers."""
    args = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    plan = plan_of("sft", base, tmp_path, demonstrations(8), args=args)
    report = trained(plan)
    assert report.found is not None
    kept = list(plan.work.glob("checkpoint-*"))
    assert len(kept) == 2
    names = ("model.safetensors", "optimizer.pt")
    each = sum((kept[0] / name).stat().st_size for name in names)
    models = sum(path.stat().st_size for path in Path(plan.out).glob("**/model.safetensors")) - sum(
        (path / "model.safetensors").stat().st_size for path in kept
    )
    assert report.found.needs.disk == pytest.approx(3 * each + models, rel=0.1)

    usage = SimpleNamespace(free=report.found.needs.disk - 1)
    monkeypatch.setattr("cai.train.needs.shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        ConfigError,
        match=r"sft needs about [\d.]+ GB of disk \(3 checkpoints at a time of .*save_total_limit \(now 2\)",
    ):
        train(plan_of("sft", base, tmp_path, demonstrations(8), args=args))
    trained(plan_of("sft", base, tmp_path, demonstrations(8), args=args | {"save_total_limit": 1}))


def test_memory_is_that_of_the_trainer(base: Path, tmp_path: Path) -> None:
    """Parameters as they are, trained and frozen; a reference only where one stays in memory."""
    from transformers import AutoModelForCausalLM

    whole = sum(own.numel() for own in AutoModelForCausalLM.from_pretrained(base).parameters())
    rows = ordinary(4)
    full = trained(plan_of("dpo", base, tmp_path, rows)).found
    assert full is not None
    assert (full.needs.parameters, full.needs.trainable) == (whole, whole)
    assert full.needs.memory == {"weights": 4 * whole, "gradients": 4 * whole, "optimizer": 8 * whole}
    kept = trained(plan_of("dpo", base, tmp_path, rows, args={"precompute_ref_log_probs": False})).found
    assert kept is not None
    assert kept.needs.memory == full.needs.memory | {"reference": 4 * whole}

    plan = plan_of("dpo", base, tmp_path, rows, lora={"r": 4}, args={"precompute_ref_log_probs": False})
    adapted = trained(plan).found
    assert adapted is not None
    from safetensors import safe_open

    with safe_open(Path(plan.out) / "adapter" / "adapter_model.safetensors", "pt") as adapter:
        own = sum(adapter.get_tensor(name).numel() for name in adapter.keys())  # noqa: SIM118 - no mapping
    assert adapted.needs.trainable == own
    assert adapted.needs.memory == {"weights": 4 * (whole + own), "gradients": 4 * own, "optimizer": 8 * own}


def test_what_is_there_is_reported(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Packages by version or as absent, in log and report; an older report without the part is still read."""
    plan = plan_of("sft", base, tmp_path, demonstrations(4))
    report = trained(plan)
    assert report.found is not None
    found = report.found.machine
    assert (found.device, found.processes, found.uses_bf16, found.uses_liger_kernel) == (
        "cpu",
        1,
        False,
        False,
    )
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("found: "))
    for name, seen in (("flash-attn", found.flash_attn), ("liger-kernel", found.liger_kernel)):
        assert f"{name} {seen or 'absent'}" in line
    path = Path(plan.out) / "cai_train.json"
    stored = json.loads(path.read_text())
    assert stored["found"]["machine"]["device"] == "cpu"
    del stored["found"]
    path.write_text(json.dumps(stored))
    older = read_finished(Path(plan.out), plan.digest)
    assert older is not None and older.found is None


def test_rows_that_are_not_counted_are_short(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting only what may be too long finds what counting everything finds, and counts few of the rows."""
    from transformers import AutoTokenizer

    from cai.models.turns import NOTHING
    from cai.train import lengths
    from cai.train.data import pairs

    texts = [
        "",
        "é",
        "ﬁ ﷺ 𝅗𝅥",
        "\u0958" * 9,
        "<|im_end|>",
        "cats " * 20,
        sentence(1, 40),
        "猫" * 30,
        "猫" * 31,
    ]
    rows = [pair(n, one, other) for n, one in enumerate(texts) for other in texts]
    plan = plan_of("dpo", base, tmp_path, rows)
    batch = pairs(plan, NOTHING)[:]
    every: dict[str, Any] = {"tokenizer": AutoTokenizer.from_pretrained(base), "kind": "dpo", "limit": 100}
    quick = lengths._measure(batch, **every)
    monkeypatch.setattr(lengths, "_to_count", lambda plain, *_: list(range(len(plain))))
    whole = lengths._measure(batch, **every)
    assert (quick["fate"] == whole["fate"]).all() and set(whole["fate"]) >= {0, 1}
    assert (quick["tokens"] == whole["tokens"])[whole["tokens"] > 100].all() and whole["tokens"].max() > 100
    assert quick["tokens"].max() == whole["tokens"].max()
    assert 0 < (quick["tokens"] == 0).sum() < len(rows)


def test_memory_is_divided_among_processes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP divides everything, ZeRO by its stage, DDP nothing; as accelerate tells its processes."""
    from transformers import TrainingArguments

    from cai.train.needs import estimate
    from cai.train.options import trl_config

    plan = plan_of("dpo", base, tmp_path, ordinary(4), args={"precompute_ref_log_probs": False})
    args = trl_config("dpo", plan.args, str(plan.work))
    alone = estimate(plan, args, None, 4).memory
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda _: 8))
    assert estimate(plan, args, None, 4).memory == alone
    for environment, divided in (
        ({"ACCELERATE_USE_FSDP": "true"}, set(alone)),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, set(alone)),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, {"gradients", "optimizer"}),
    ):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            found = estimate(plan, args, None, 4).memory
        assert found == {name: size // 8 if name in divided else size for name, size in alone.items()}
