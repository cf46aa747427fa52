"""`cai export`: the dataset of a run in the format of another tool, with a card, and on a hub if asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from cai.cli.common import Json, Run, of_a_run, print_json, tell
from cai.errors import ConfigError

if TYPE_CHECKING:
    from cai.export.formats import FormatName
    from cai.export.record import Exported

FORMATS = (
    "trl", "sft", "kto", "reward", "stepwise", "axolotl", "llama-factory", "openrlhf", "openai", "openai-sft",
    "anthropic-hh", "csv",
)  # fmt: skip


@of_a_run
def export(
    run: Run,
    format: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}.",
            autocompletion=lambda incomplete: [name for name in FORMATS if name.startswith(incomplete)],
        ),
    ] = "trl",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where it goes; default: RUN/exports/FORMAT.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="PART", help="preference-2 … of later rounds; default: what the format is for."),
    ] = None,
    eval_share: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Share of the prompts that make up the eval split.")
    ] = 0.05,
    min_p: Annotated[
        float | None, typer.Option(min=0.5, max=1.0, help="Leave out pairs whose label is less sure.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Upload it as a dataset, with HF_TOKEN.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Upload it for everybody to see.")] = False,
    as_json: Json = False,
) -> None:
    """Write the dataset of a run in a format that other tools read, split by prompt, with a dataset card."""
    from cai.export.folder import export_folder
    from cai.export.record import Choice

    if public and push_to_hub is None:
        raise ConfigError("--public: says who sees an upload; give --push-to-hub ORG/NAME with it")
    choice = Choice(_format(format), part, eval_share, min_p)
    folder, found = export_folder(run, choice, out)
    if not as_json:
        _print(folder, found)
    url = None
    if push_to_hub is not None:
        from cai.hub import push_folder

        url = push_folder(folder, push_to_hub, "dataset", private=not public).url
    if as_json:
        print_json({"folder": str(folder), **found.model_dump(mode="json"), "pushed": url})
    elif url is not None:
        tell(f"pushed  {url}")


def _format(name: str) -> FormatName:
    from cai.export.formats import FormatName

    known = get_args(FormatName)
    if name not in known:
        raise ConfigError(f"--format {name}: unknown format; choose one of {', '.join(known)}")
    return name  # type: ignore[return-value]


def _print(folder: Path, found: Exported) -> None:
    from cai.printable import printable

    splits = ", ".join(f"{split} {count:,}" for split, count in found.rows.items() if count)
    tell(printable(f"{found.format}  {folder}  ({splits} rows of {found.read:,} in {found.part})"))
    for reason, count in found.left_out.items():
        tell(f"left out  {reason} {count:,}")
    if found.eval_share and not found.rows["eval"]:
        tell("no eval split: too few prompts for one of this share")
