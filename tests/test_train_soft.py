"""Soft-label DPO against its formula, through TRL's own trainer; and what is refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cai.config import DpoConfig, TrainingConfig
from cai.errors import ConfigError
from cai.train.folder import prepare_folder
from cai.train.main import train
from cai.train.plan import make_plan
from cai.train.refuse import refuse
from tests.tiny_model import write_pairs

BATCH = 4
BETA = 0.3
P = (0.55, 0.7, 0.95, 1.0)
LOSSES: list[dict[str, Any]] = [
    {},
    {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.8, 0.2]},
    {"loss_type": "sigmoid_norm"},
    {"ld_alpha": 0.4},
]
HOW: list[dict[str, Any]] = [
    {"precompute_ref_log_probs": True},
    {"precompute_ref_log_probs": False},
    {"lora": {"r": 2}},
    {"lora": {"r": 2}, "precompute_ref_log_probs": False},
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One batch of preference rows with four different p."""
    path = tmp_path_factory.mktemp("data") / "dpo.jsonl"
    write_pairs(path)
    pairs = [json.loads(line) for line in path.read_text().splitlines()[:BATCH]]
    path.write_text("".join(json.dumps(row | {"p": p}) + "\n" for row, p in zip(pairs, P, strict=True)))
    return path


def moved(base: Path, rows: Path, out: Path, trainer: Any, read: Any, options: dict[str, Any]) -> Any:
    """A trainer in float64 whose weights have left those of the reference, and its only batch."""
    import torch
    from transformers import AutoTokenizer

    from cai.models.turns import NOTHING
    from cai.train.options import lora_config, trl_config

    args = {name: value for name, value in options.items() if name not in ("lora", "soft_labels")}
    args |= {"per_device_train_batch_size": BATCH, "beta": BETA}
    config = DpoConfig(args=args, lora=options.get("lora"), soft_labels=options.get("soft_labels", True))
    plan = make_plan("dpo", model=str(base), data=rows, out=out, config=config, seed=0)
    parsed = trl_config("dpo", plan.args, str(plan.work))
    parsed.model_init_kwargs = {"dtype": torch.float64}
    built = trainer(
        model=plan.model, args=parsed, train_dataset=read(plan, NOTHING).remove_columns(["defused", "unwritable"]),
        processing_class=AutoTokenizer.from_pretrained(base), peft_config=lora_config("dpo", plan.lora),
    )  # fmt: skip
    torch.manual_seed(7)
    with torch.no_grad():
        for weights in built.model.parameters():
            if weights.requires_grad:
                weights.add_(torch.randn_like(weights) * 0.05)
    return built, next(iter(built.get_train_dataloader()))


def log_probs(model: Any, batch: Any, alpha: float | None) -> tuple[Any, Any, Any]:
    """Log-probabilities of the completions from the plain logits, their lengths, and the chosen ones' token mean."""
    import torch

    mask = batch["completion_mask"][:, 1:]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    token = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    sums = []
    lengths = mask.sum(1).tolist()
    for row, length in enumerate(lengths):
        own = token[row][mask[row].bool()]
        shared = min(length, lengths[(row + BATCH) % (2 * BATCH)])
        sums.append(own[:shared].sum() + (1.0 if alpha is None else alpha) * own[shared:].sum())
    chosen_mean = token[:BATCH][mask[:BATCH].bool()].mean()
    return torch.stack(sums), mask.sum(1), chosen_mean


def formula(trainer: Any, batch: Any, base: Path, options: dict[str, Any]) -> Any:
    """The loss as it is written down, from plain logits of policy and reference."""
    import torch
    from torch.nn.functional import logsigmoid
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    alpha = options.get("ld_alpha")
    policy, lengths, chosen_mean = log_probs(trainer.model, batch, alpha)
    with torch.no_grad():
        ratios = log_probs(reference, batch, alpha)[0].neg()
    ratios = ratios + policy
    if options.get("loss_type") == "sigmoid_norm":
        ratios = ratios / lengths
    x = BETA * (ratios[:BATCH] - ratios[BATCH:])
    p = batch["p"].double()
    logistic = -(p * logsigmoid(x) + (1 - p) * logsigmoid(-x)).mean()
    return logistic if "loss_weights" not in options else 0.8 * logistic - 0.2 * chosen_mean


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "how"), [*product(LOSSES, HOW[:1]), *product(LOSSES[:2], HOW[1:])])
def test_training_follows_the_formula(
    loss: dict[str, Any], how: dict[str, Any], base: Path, rows: Path, tmp_path: Path
) -> None:
    """Loss and gradients of the weights, for each mix, reference and adapter, to the float32 of TRL's LM head."""
    import torch

    from cai.train.data import labelled_pairs
    from cai.train.soft import SoftDPOTrainer

    trainer, batch = moved(base, rows, tmp_path / "o", SoftDPOTrainer, labelled_pairs, loss | how)
    assert sorted(batch["p"].tolist()) == pytest.approx(P)
    weights = [own for own in trainer.model.parameters() if own.requires_grad]
    expected = formula(trainer, batch, base, loss)
    hard = formula(trainer, batch | {"p": torch.ones(BATCH)}, base, loss)
    assert abs(hard.item() - expected.item()) > 1e-4
    wanted = torch.autograd.grad(expected, weights)
    found = trainer.compute_loss(trainer.model, dict(batch))
    assert found.item() == pytest.approx(expected.item(), abs=2e-6)
    for ours, theirs in zip(torch.autograd.grad(found, weights), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[2], {"loss_type": ["sigmoid"], "loss_weights": [0.7]}])
def test_gradients_in_float64(loss: dict[str, Any], base: Path, rows: Path, tmp_path: Path) -> None:
    """By the log-probability of every token, which a stand-in for the model gives in float64: exact to 1e-12."""
    import torch
    from torch.nn.functional import logsigmoid

    from cai.train.data import labelled_pairs
    from cai.train.soft import SoftDPOTrainer

    trainer, batch = moved(base, rows, tmp_path / "o", SoftDPOTrainer, labelled_pairs, loss)
    mask = batch["completion_mask"][:, 1:].double()

    class Given(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.log_probs = torch.nn.Parameter(torch.randn_like(mask).sub(3))

        def forward(self, **inputs: Any) -> Any:
            zeros = torch.zeros_like(mask)
            return SimpleNamespace(
                log_probs=self.log_probs * mask, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
            )

    trainer.model = Given()
    reference = {f"ref_{name}_logps": batch[f"ref_{name}_logps"].double() for name in ("chosen", "rejected")}
    found = trainer.compute_loss(trainer.model, batch | reference)

    ratios = (trainer.model.log_probs * mask).sum(1) - torch.cat(list(reference.values()))
    if loss.get("loss_type") == "sigmoid_norm":
        ratios = ratios / mask.sum(1)
    x, p = BETA * (ratios[:BATCH] - ratios[BATCH:]), batch["p"].double()
    expected = -(p * logsigmoid(x) + (1 - p) * logsigmoid(-x)).mean() * loss.get("loss_weights", [1.0])[0]
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    ours, theirs = (torch.autograd.grad(value, trainer.model.log_probs)[0] for value in (found, expected))
    assert theirs.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_certain_labels_are_trls_own_loss(
    loss: dict[str, Any], base: Path, rows: Path, tmp_path: Path
) -> None:
    """With p = 1 for every row the loss is DPOTrainer's to 1e-6."""
    from trl import DPOTrainer

    from cai.train.data import labelled_pairs, pairs
    from cai.train.soft import SoftDPOTrainer

    hard, batch = moved(base, rows, tmp_path / "h", DPOTrainer, pairs, loss)
    soft, same = moved(
        base, rows, tmp_path / "s", SoftDPOTrainer, labelled_pairs, loss | {"soft_labels": 1.0}
    )
    assert same["p"].tolist() == [1.0] * BATCH
    assert batch["input_ids"].equal(same["input_ids"])
    expected = hard.compute_loss(hard.model, dict(batch)).item()
    assert soft.compute_loss(soft.model, dict(same)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_rows_without_p_are_refused(base: Path, rows: Path, tmp_path: Path) -> None:
    """A missing p and one that is no probability; a constant for all rows needs none."""
    bare = [
        {name: row[name] for name in ("prompt", "chosen", "rejected")}
        for row in map(json.loads, rows.read_text().splitlines())
    ]

    def attempt(given: list[dict[str, Any]], soft_labels: bool | float) -> None:
        data = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in given))
        config = DpoConfig(args={"max_steps": 1}, soft_labels=soft_labels)
        out = data.with_suffix(".out")
        train(prepare_folder(make_plan("dpo", model=str(base), data=data, out=out, config=config, seed=0)))

    with pytest.raises(ConfigError, match=r"row 1: lacks 'p'; dpo takes .*, and a number under p"):
        attempt(bare, True)
    with pytest.raises(ConfigError, match=r"row 2: p is 1\.5; soft labels are probabilities"):
        attempt([bare[0] | {"p": 0.9}, bare[1] | {"p": 1.5}], True)
    attempt(bare, 0.8)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            {"soft_labels": True, "args": {"loss_type": "ipo"}},
            "loss_type ipo: ipo has no place for a probability",
        ),
        ({"soft_labels": 0.9, "args": {"loss_type": ["sigmoid", "bco_pair"]}}, "bco_pair has no place"),
        (
            {"soft_labels": True, "args": {"loss_type": ["sft"]}},
            "sft has no label; take sigmoid or sigmoid_norm",
        ),
        ({"soft_labels": True, "args": {"f_divergence_type": "forward_kl"}}, "need reverse_kl"),
        ({"soft_labels": True, "args": {"use_weighting": True}}, "weighs hard labels"),
        (
            {"args": {"label_smoothing": 0.1}},
            "TRL ignores it with loss_type sigmoid; take robust .* soft_labels",
        ),
        ({"args": {"label_smoothing": 0.1, "loss_type": ["ipo", "sft"]}}, "with loss_type ipo, sft"),
    ],
)
def test_options_without_effect_are_refused(config: dict[str, Any], problem: str) -> None:
    """Named with the loss that has no use for them, and with what to take."""
    with pytest.raises(ConfigError, match=problem):
        refuse("dpo", DpoConfig(**config))


def test_options_with_effect_are_taken() -> None:
    """What the refusals above must not catch."""
    for args in ({"loss_type": "robust", "label_smoothing": 0.1}, {"label_smoothing": 0.0}, {}):
        refuse("dpo", DpoConfig(args=args))
    refuse("dpo", DpoConfig(args={"loss_type": ["sigmoid_norm", "sft"]}, soft_labels=True))
    refuse("cpo", TrainingConfig(args={"loss_type": "simpo", "label_smoothing": 0.1}))
    with pytest.raises(ConfigError, match=r"cpo\.args\.label_smoothing: 0\.1: .* hinge; take sigmoid"):
        refuse("cpo", TrainingConfig(args={"loss_type": "hinge", "label_smoothing": 0.1}))


@pytest.mark.slow
def test_soft_labels_are_part_of_the_digest(base: Path, rows: Path, tmp_path: Path) -> None:
    """Another p is another model; without soft labels the digest is that of a plain section."""

    def digest(config: TrainingConfig) -> str:
        return make_plan("dpo", model=str(base), data=rows, out=tmp_path / "o", config=config, seed=0).digest

    assert digest(DpoConfig()) == digest(TrainingConfig())
    assert len({digest(DpoConfig(soft_labels=soft)) for soft in (False, True, 0.9, 1.0)}) == 4


def test_one_and_true_are_told_apart() -> None:
    """A certain label for all is a number, each row's own is a truth value; half is no preference."""
    assert DpoConfig(soft_labels=1).soft_labels == 1.0 and DpoConfig(soft_labels=1).soft_labels is not True
    assert DpoConfig(soft_labels=True).soft_labels is True
    with pytest.raises(ValueError, match=r"above 0\.5"):
        DpoConfig(soft_labels=0.5)
