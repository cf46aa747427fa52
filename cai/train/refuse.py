"""Training options that are refused before anything starts: not the user's to set, or without any effect in TRL.

TRL 1.16 passes over some of what it is told; a run must not look as though it had been done. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai.config import DpoConfig, Kind, TrainingConfig
from cai.config.training import MEASURED
from cai.errors import ConfigError

# Set by the plan itself, or refused for safety.
RESERVED: dict[str, str] = {
    "output_dir": "the run decides where the model goes",
    "seed": "set the run's top-level 'seed'",
    "data_seed": "set the run's top-level 'seed'",
    "resume_from_checkpoint": "an interrupted training is resumed on its own",
    "trust_remote_code": "code that comes with a model is never run",
    "dataset_kwargs": "rows come as the run exported them",
}
# Config files for `accelerate launch` that come with the package, by name.
SHIPPED = {path.stem: path for path in sorted((Path(__file__).parent / "accelerate_configs").glob("*.yaml"))}
# The losses in which TRL reads `label_smoothing`.
SMOOTHED: dict[Kind, tuple[str, ...]] = {
    "dpo": ("robust", "exo_pair", "aot", "aot_unpaired"),
    "cpo": ("sigmoid", "simpo", "alphapo"),
}
# `label_smoothing: measured` is a flip rate, which not all of them mean by it.
FLIPPED: dict[Kind, tuple[str, ...]] = {"dpo": ("robust",), "cpo": SMOOTHED["cpo"]}
# The losses that a probability can be put into (logistic in the difference of the two log-ratios), and the one
# that has no label at all and may be mixed with them.
SOFT = ("sigmoid", "sigmoid_norm")
UNLABELLED = "sft"


def refuse(kind: Kind, config: TrainingConfig) -> None:
    """Raise ConfigError for an option that is not the user's to set, or that would do nothing."""
    args = config.args
    for name in args:
        if name in RESERVED:
            raise ConfigError(f"{kind}.args.{name}: not to be set here: {RESERVED[name]}")
    if (args.get("model_init_kwargs") or {}).get("trust_remote_code"):
        raise ConfigError(f"{kind}.args.model_init_kwargs: {RESERVED['trust_remote_code']}")
    if (given := config.accelerate.get("config_file")) is not None and not config_path(given).is_file():
        raise ConfigError(
            f"{kind}.accelerate.config_file: no file {given!r}; give the path of one, or a shipped one's name: "
            f"{', '.join(SHIPPED)}"
        )
    if kind in SMOOTHED:
        _refuse_smoothing(kind, args)
    if isinstance(config, DpoConfig) and config.soft_labels is not False:
        _refuse_hard(args)


def config_path(given: str) -> Path:
    """The shipped file of that name, or the file at that path."""
    return SHIPPED.get(given, Path(given))


def losses(args: dict[str, Any]) -> tuple[str, ...]:
    """The names in `loss_type`, which is one or a list of them; TRL's default where none is given."""
    given = args.get("loss_type", "sigmoid")
    return (given,) if isinstance(given, str) else tuple(given)


def _refuse_smoothing(kind: Kind, args: dict[str, Any]) -> None:
    given = args.get("label_smoothing", 0)
    read = FLIPPED if given == MEASURED else SMOOTHED
    if given in (0, "0", "0.0") or set(losses(args)) & set(read[kind]):
        return
    what = "is no flip rate" if set(losses(args)) & set(SMOOTHED[kind]) else "TRL ignores it"
    more = ", or soft_labels for each row's own probability" if kind == "dpo" else ""
    raise ConfigError(
        f"{kind}.args.label_smoothing: {given}: {what} with loss_type {', '.join(losses(args))}; "
        f"take {SMOOTHED[kind][0]} for labels of which that share is flipped{more}"
    )


def _refuse_hard(args: dict[str, Any]) -> None:
    found = losses(args)
    hard = [name for name in found if name not in (*SOFT, UNLABELLED)]
    if hard or not set(found) & set(SOFT):
        what = f"{hard[0]} has no place for a probability" if hard else f"{UNLABELLED} has no label"
        raise ConfigError(
            f"dpo.soft_labels: loss_type {', '.join(found)}: {what}; take {' or '.join(SOFT)}, alone or mixed "
            f"with {UNLABELLED}, or leave soft_labels out"
        )
    if args.get("f_divergence_type", "reverse_kl") != "reverse_kl":
        raise ConfigError(
            f"dpo.args.f_divergence_type: {args['f_divergence_type']}: soft_labels need reverse_kl"
        )
    if args.get("use_weighting"):
        raise ConfigError("dpo.args.use_weighting: weighs hard labels; leave it or soft_labels out")
