"""The ``charloom`` command: everything around the workflow. The workflow itself is run by snakemake.

Every command runs in the folder of the workflow (the one with ``config/``). A user's mistake is one line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from charloom.cli import deliver, install, mistyped, starting, store
from charloom.cli.draw import draw
from charloom.cli.naming import known, named, workflow_folder
from charloom.core.errors import UserError, disk_problem

START, DATA_SET, TRAIN, USE, MACHINE = "Start", "Data set", "Train", "Use a LoRA", "This machine"
"""Groups of commands in the help, in the order in which they are first named below."""

app = typer.Typer(
    name="charloom",
    cls=mistyped.Commands,
    help="Set up, check and plan characters, and verify LoRA files. To train, run snakemake.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        print(f"charloom {importlib.metadata.version('charloom')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before a command."""


def one_line(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose :class:`UserError` becomes ``error:`` lines and exit status 1; Ctrl-C ends it quietly."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            raise typer.Exit(1) from None
        except OSError as error:
            if (line := disk_problem(error)) is None:
                raise
            print(f"error: {line}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:  # what ran has said how it ended
            raise typer.Exit(130) from None

    return run


for _command in (install.init, starting.new):
    app.command(rich_help_panel=START)(one_line(_command))


@app.command(rich_help_panel=DATA_SET)
@one_line
def lint(
    name: Annotated[str, typer.Argument(help="a character, by name or file")],
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
    html: Annotated[bool, typer.Option("--html", help="write the page results/NAME/lint.html")] = False,
    no_ocr: Annotated[bool, typer.Option("--no-ocr", help="do not look for text, even where OCR is installed")] = False,
) -> None:
    """Check a character: its file, its images and its captions."""
    from charloom.cli import checking

    root = workflow_folder()
    name = named(name)
    last = [] if as_json else _say_first(root, name)
    wrong = checking.check(root, name, as_json=as_json, html=html, ocr=not no_ocr)
    for line in last:
        print(f"note: {line}")
    if wrong:
        raise typer.Exit(1)


@app.command(rich_help_panel=DATA_SET)
@one_line
def captions(
    name: Annotated[str, typer.Argument(help="a character, by name or file")],
    pictures: Annotated[list[str] | None, typer.Argument(help="more pictures for --accept or --keep")] = None,
    accept: Annotated[list[str] | None, typer.Option(help="take the proposed caption of a picture, or of all")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="keep the present caption of a picture, or of all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print proposals and statistics as JSON")] = False,
    tags: Annotated[bool, typer.Option("--tags", help="show what captions have in common, and what none says")] = False,
) -> None:
    """Show the captions that the captioner proposes, as changes of the present ones; accept or refuse them."""
    from charloom.cli import reviewing

    root = workflow_folder()
    reviewing.review(root, named(name), accept or [], keep or [], pictures or [], as_json=as_json, tags=tags)


def _say_first(root: Path, name: str) -> list[str]:
    """Print what the base cannot do for the character, even if the file has mistakes.

    Returns what the machine lacks for training: pictures are often checked on another one.
    """
    from charloom.config import notices, project
    from charloom.core import last_run
    from charloom.workflow import devices

    try:
        workflow = project.as_last_run(root, name, ready=False)
        character = workflow.projects[name]
    except (UserError, KeyError):
        return []  # reported by the check that follows
    here = not last_run.on_other_machines(last_run.of(root, name).options, root)
    base, gpu = workflow.bases[character.base], notices.has_gpu(workflow.device, here)
    last = notices.of_machine(base, gpu)
    for line in notices.notices(character, base, gpu):
        if line not in last:
            print(f"warning: {line}")
    few = devices.shortage(workflow.device, workflow.gpus_for(character)) if here else ""
    return [*last, few] if few else last


@app.command(context_settings={"ignore_unknown_options": True}, rich_help_panel=TRAIN)
@one_line
def plan(
    targets: Annotated[
        list[str] | None, typer.Argument(help="characters or files; everything if none is given")
    ] = None,
) -> None:
    """Show which jobs snakemake would run, why, and for a character what they take: time, memory, disk.

    Further options are passed to snakemake: charloom plan mara --profile profiles/gpu-24gb
    """
    from charloom.cli import planning, pricing
    from charloom.config import inventory

    root = workflow_folder()
    names = inventory.projects(root)
    asked = [named(target) if target.endswith((".yaml", ".yml")) else target for target in targets or []]
    output = planning.dry_run(asked, root)
    found = planning.groups(output)
    for line in [*planning.remarks(output), *planning.summary(found)]:
        print(line)
    priced = list(dict.fromkeys(target for target in asked if target in names))
    for name in priced:
        whose = f"{name}, " if len(priced) > 1 else ""
        for number, line in enumerate(pricing.lines(root, name, found, pricing.overrides(asked, root))):
            print(line if number else f"{whose}{line}")


@app.command(context_settings={"ignore_unknown_options": True}, rich_help_panel=DATA_SET)
@one_line
def images(
    name: Annotated[str, typer.Argument(help="a character whose pictures are generated")],
    options: Annotated[list[str] | None, typer.Argument(help="options for snakemake, such as --profile")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="only say how many, and what they cost")] = False,
) -> None:
    """Generate a character's pictures: those that are missing, and nothing else."""
    from charloom.cli import images as generation
    from charloom.cli import trial
    from charloom.config import project
    from charloom.core.store import Store
    from charloom.dataset import sources

    root = workflow_folder()
    name = known(name)
    given, overrides = trial.settings(root, name, options or [])
    workflow = project.load(root, overrides, name, sources.problems)
    character = workflow.character(name)
    found = generation.outlook(root, character, Store(root / workflow.store))
    for line in generation.lines(found, workflow.bases[character.base]):
        print(line, flush=True)
    if not dry_run:
        generation.run(root, found, given)


@app.command(rich_help_panel=TRAIN)
@one_line
def watch(
    name: Annotated[str | None, typer.Argument(help="a character; all of them if none is given")] = None,
    port: Annotated[int | None, typer.Option(help="port on 127.0.0.1; a free one if not given")] = None,
) -> None:
    """Show a run live in the browser, choose a checkpoint with a click; and work on the data set, on its board."""
    from charloom.watch import serve

    root = workflow_folder()
    serve.serve(root, named(name) if name else None, port)


@app.command(rich_help_panel=TRAIN)
@one_line
def stop(name: Annotated[str, typer.Argument(help="a character in training")]) -> None:
    """End a running training after its current step, with everything saved. The next snakemake goes on from there."""
    from charloom.cli import steering

    steering.stop(workflow_folder(), known(name), print)


@app.command(rich_help_panel=TRAIN)
@one_line
def ship(
    name: Annotated[str, typer.Argument(help="a character whose checkpoint is good enough")],
    checkpoint: Annotated[int | None, typer.Option(help="step of the checkpoint; the newest if not given")] = None,
) -> None:
    """Take a checkpoint as the result: writes `ship: STEP` into the character's file and stops its training."""
    from charloom.cli import steering

    steering.ship(workflow_folder(), known(name), checkpoint, print)


@app.command("try", context_settings={"ignore_unknown_options": True}, rich_help_panel=TRAIN)
@one_line
def try_(
    name: Annotated[str, typer.Argument(help="a character")],
    options: Annotated[list[str] | None, typer.Argument(help="options for snakemake, such as --profile")] = None,
    steps: Annotated[int, typer.Option(min=1, help="steps to train")] = 100,
    price: Annotated[float | None, typer.Option(min=0, help="price of an hour on this machine")] = None,
) -> None:
    """Train a hundred steps and draw one row of previews, before the whole run, which goes on from them."""
    from charloom.cli import trial
    from charloom.config import project

    root = workflow_folder()
    name = known(name)
    options, overrides = trial.settings(root, name, options or [])
    character = project.load(root, overrides, ready=name).character(name)
    trial.run(root, character, steps, options)
    for line in trial.verdict(root, character, trial.measured(root, character, steps), price):
        print(line)


@app.command("import-ai-toolkit", rich_help_panel=START)
@one_line
def import_ai_toolkit(
    job: Annotated[Path, typer.Argument(help="an ai-toolkit job, YAML")],
    name: Annotated[
        str | None, typer.Option(help="name of the character file; the name of the job if not given")
    ] = None,
) -> None:
    """Convert an ai-toolkit job into a character file, and report what became of every key."""
    from charloom.config import scaffold
    from charloom.interop.aitoolkit import read as aitoolkit

    root = workflow_folder()
    imported = aitoolkit.read(job, root, name)
    path = root / "config" / "characters" / f"{imported.id}.yaml"
    captions = root / "config" / "captions" / imported.id
    written = [captions / f"{shot}.txt" for shot in imported.captions if (captions / f"{shot}.txt").exists()]
    if written:
        raise UserError(f"{written[0]}: exists already and is not overwritten; choose another name with --name")
    scaffold.write_new(path, aitoolkit.character_yaml(imported, job))
    for shot, text in imported.captions.items():
        scaffold.write_new(captions / f"{shot}.txt", text + "\n")
    print(f"{path}: written, {len(imported.understood)} keys understood, {len(imported.ignored)} ignored")
    if imported.captions:
        print(f"{captions}/: {len(imported.captions)} captions imported")
    for key, why in imported.ignored.items():
        print(f"ignored: {key}: {why}")
    # What lint says of a folder that is not here, the import has said with the job in mind.
    there = "shots" in imported.character
    found = [line for line in starting.problems(root, imported.id) if there or ": images.path: " not in line]
    for line in dict.fromkeys([*imported.todo, *found]):
        print(f"to do: {line}")
    starting.say_next(imported.id, imported.base, whole=True)


@app.command(rich_help_panel=USE)
@one_line
def verify(
    file: Annotated[Path, typer.Argument(help="a LoRA of any trainer, .safetensors")],
    base: Annotated[
        Path | None, typer.Option(help="base model folder to check shapes against; not needed for Z-Image")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Check a LoRA file: its type, whether it is intact and has an effect, and which programs load it."""
    import json

    if file.is_dir():
        there = sorted(path.name for path in file.glob("*.safetensors"))
        raise UserError(f"{file}: is a folder; name a file in it" + (f", e.g. {file / there[0]}" if there else ""))
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; correct the path")
    from charloom.lora.verify import verify as check
    from charloom.zimage.shapes import module_shapes

    shapes = None
    if base is not None:
        config = base / "transformer" / "config.json"
        try:
            shapes = module_shapes(json.loads(config.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"{config}: is not a Z-Image transformer configuration ({error}); name its config.json"
            ) from None
    report = check(file, shapes)
    print(json.dumps(report.record(), indent=2) if as_json else report)
    if not report.ok:
        raise typer.Exit(1)


for _command in (draw, deliver.comfy, deliver.convert, deliver.merge, deliver.publish):
    app.command(rich_help_panel=USE)(one_line(_command))
app.command(rich_help_panel=START)(one_line(deliver.unpack))
app.command(rich_help_panel=MACHINE)(one_line(install.doctor))
app.add_typer(store.app, name="store", rich_help_panel=MACHINE)


if __name__ == "__main__":
    app()
