"""`cai judge`: may a judge be trusted, how sure are its labels, and from where on are they kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from cai.cli.common import Config, Json, Set, print_json, run_flow
from cai.errors import ConfigError

if TYPE_CHECKING:
    from cai.judge.curve import Method
    from cai.judge.fit import Settings
    from cai.judge.summary import Kind, Summary
    from cai.judges.labelled import Recording

app = typer.Typer(no_args_is_help=True, help="Measure, calibrate and qualify judges.")

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Verdict replay files (JSONL).")]
Threshold = Annotated[float, typer.Option(min=0.5, max=1.0, help="Smallest confidence that is kept.")]
Target = Annotated[
    float | None, typer.Option(help="Choose the threshold so that kept labels are right this often.")
]
Risk = Annotated[float, typer.Option(help="Probability with which that promise may be broken.")]
Calibrate = Annotated[
    str | None, typer.Option(metavar="METHOD", help="Calibrate: temperature, platt or isotonic.")
]


@app.command()
def replay(
    files: Files,
    as_json: Json = False,
    threshold: Threshold = 0.7,
    target_accuracy: Target = None,
    risk: Risk = 0.1,
    calibrate: Calibrate = None,
    jury: Annotated[bool, typer.Option("--jury", help="Pool the judges of all files.")] = False,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Ask the judges in turn, in the order of the files.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Apply a calibration made elsewhere for this judge.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a calibration.")] = None,
) -> None:
    """Every figure of a judge from recorded verdicts, without a model."""
    from cai.judge.fit import Settings
    from cai.judges.labelled import read_jury, read_recording

    settings = Settings(_method(calibrate), threshold, _target(target_accuracy), _risk(risk))
    if jury and cascade:
        raise ConfigError("--jury and --cascade: choose one")
    if (jury or cascade) and len(files) < 2:
        raise ConfigError(f"{'--jury' if jury else '--cascade'}: give two or more files")
    if not (jury or cascade) and len(files) > 1 and (calibration or out):
        raise ConfigError("--calibration and --out take one file, or several with --jury or --cascade")
    if jury or cascade:
        found = _combined(read_jury(files), "jury" if jury else "cascade", settings, calibration, out)
        _show([(", ".join(map(str, files)), found)], as_json)
        return
    recordings = [read_recording(file) for file in files]
    _show(
        [(str(one.path), _combined([one], "single", settings, calibration, out)) for one in recordings],
        as_json,
    )


Pairs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Labelled pairs (JSONL); default: judge.labelled, or the constitution's tests."
    ),
]


@app.command()
def qualify(config: Config, pairs: Pairs = None, as_json: Json = False, overrides: Set = None) -> None:
    """Ask the judge of a config about labelled pairs, and decide whether it may label; exit 1 where it may not."""
    run_flow("qualify", config, _with_pairs(overrides, pairs), ["--json"] if as_json else [])


@app.command("calibrate")
def calibrate_live(
    config: Config,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the calibration goes.")],
    pairs: Pairs = None,
    method: Annotated[str, typer.Option(help="temperature, platt or isotonic.")] = "temperature",
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """Ask the judge of a config about labelled pairs, and write a calibration for `judge.calibration`."""
    options = [
        "--out",
        str(out),
        "--method",
        str(_method(method, "--method")),
        *(["--json"] if as_json else []),
    ]
    run_flow("calibrate", config, _with_pairs(overrides, pairs), options)


def _with_pairs(overrides: list[str] | None, pairs: Path | None) -> list[str]:
    return [*(overrides or []), *([f"judge.labelled={json.dumps(str(pairs))}"] if pairs else [])]


def _combined(
    recordings: Sequence[Recording],
    kind: Kind,
    settings: Settings,
    calibration: Path | None,
    out: Path | None,
) -> Summary:
    from cai.judge.fit import METHOD
    from cai.judge.summary import apply_rule, summarise
    from cai.judges.calibration import (
        calibrate,
        check_calibration,
        read_calibration,
        thresholds,
        write_calibration,
    )

    members = [(one.judge, one.cases) for one in recordings]
    if calibration is not None:
        if kind != "single":
            raise ConfigError(
                "--calibration: applies to the verdicts of one judge; leave --jury/--cascade out"
            )
        stored = read_calibration(calibration)
        check_calibration(calibration, stored, kind, [members[0][0]], None)
        return apply_rule(*members[0], thresholds(stored, settings)[0], settings)
    found = summarise(members, kind, settings)
    if out is not None:
        write_calibration(out, calibrate(members, settings.method or METHOD, None, found))
    return found


def _show(found: Sequence[tuple[str, Summary]], as_json: bool) -> None:
    """One file: its figures; several: one object a file, under `files`."""
    if as_json:
        rows: list[dict[str, Any]] = [{"file": file, **one.model_dump(mode="json")} for file, one in found]
        print_json(rows[0] if len(rows) == 1 else {"files": rows})
        return
    from rich.console import Console

    from cai.report.judge import print_summary

    for _, one in found:
        print_summary(one, Console())


def _method(name: str | None, option: str = "--calibrate") -> Method | None:
    from cai.judge.curve import Method

    known = get_args(Method)
    if name is not None and name not in known:
        raise ConfigError(f"{option} {name}: unknown method; choose one of {', '.join(known)}")
    return name  # type: ignore[return-value]


def _target(value: float | None) -> float | None:
    if value is not None and not 0.5 < value < 1:
        raise ConfigError(f"--target-accuracy {value:g}: must be above 0.5 and below 1")
    return value


def _risk(value: float) -> float:
    if not 0 < value < 0.5:
        raise ConfigError(f"--risk {value:g}: must be above 0 and below 0.5")
    return value
