"""The ``charloom`` command: what surrounds the workflow. Making things is Snakemake's business.

Every command works in the folder of the workflow (the one with ``config/``). A user's mistake is one line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from charloom.errors import UserError

app = typer.Typer(
    name="charloom",
    help="From an idea for a character to a LoRA that draws it. To make things, run snakemake.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _one_line(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose :class:`UserError` becomes ``error:`` lines and exit status 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            raise typer.Exit(1) from None

    return run


def _workflow_folder() -> Path:
    root = Path(".")
    if not (root / "config" / "config.yaml").is_file():
        raise UserError("there is no config/config.yaml here; change to the folder of the workflow")
    return root


@app.command()
@_one_line
def new(
    name: Annotated[str, typer.Argument(help="name of the file, a-z 0-9 - _, for example mara")],
    trigger: Annotated[
        str | None, typer.Option(help="the new word for the character; made from the name if not given")
    ] = None,
) -> None:
    """Write config/characters/NAME.yaml with comments, ready to run. Never overwrites."""
    from charloom import scaffold

    root = _workflow_folder()
    path = root / "config" / "characters" / f"{scaffold.check_name(name)}.yaml"
    scaffold.write_new(path, scaffold.character_file(name, trigger))
    print(f"{path}: written; edit it, then:")
    print(f"  charloom lint {name}")
    print(f"  snakemake --cores 2 results/{name}/prompts.html         # what to tell an image generator")
    print(f"  snakemake --cores 2 results/{name}/final.safetensors")
    for line in _problems(root, name):
        print(f"to do: {line}")


def _problems(root: Path, name: str) -> list[str]:
    """What the check of the whole configuration says about one character."""
    from charloom import config

    try:
        config.load(root, ready=name)
    except UserError as error:
        label = f"config/characters/{name}.yaml"
        return [line for line in str(error).splitlines() if label in line]
    return []


@app.command()
@_one_line
def lint(name: Annotated[str, typer.Argument(help="name of the character file")]) -> None:
    """Check a character: its file, and its images and captions as far as they are made."""
    import json

    from charloom import config, slices
    from charloom import lint as checks

    root = _workflow_folder()
    name = _named(name)
    character = config.load(root, ready=name).character(name)
    print(f"{character.label}: {len(character.shots)} shots, {len(character.sample_prompts)} sample prompts: fine")
    dataset = root / "results" / name / "dataset"
    missing = [
        f"{shot}{suffix}"
        for shot in character.image_names
        for suffix in (".png", ".txt")
        if not (dataset / f"{shot}{suffix}").is_file()
    ]
    settings = json.loads(slices.lint(character))
    if missing:
        for finding in checks.stray(settings):
            print(finding)
        print(
            f"{dataset}: {len(missing)} files are not made yet ({missing[0]} ...); "
            f"snakemake --cores 2 results/{name}/lint.json"
        )
        return
    findings = checks.lint(dataset, settings, checks.facts)
    for finding in findings:
        print(finding)
    errors = sum(finding.level == "error" for finding in findings)
    print(f"{dataset}: {errors} errors, {len(findings) - errors} warnings")
    if errors:
        raise typer.Exit(1)


def _named(target: str) -> str:
    """The name of a character that is also called by its file: ``config/characters/mara.yaml`` is mara."""
    path = Path(target)
    return path.stem if path.suffix in (".yaml", ".yml") and path.parent.name in ("", "characters") else target


@app.command(context_settings={"ignore_unknown_options": True})
@_one_line
def plan(
    targets: Annotated[
        list[str] | None, typer.Argument(help="files, or names of characters; everything if none")
    ] = None,
) -> None:
    """Say what snakemake would make, and why, without making it.

    Options go on to snakemake, after the targets: charloom plan mara --profile profiles/gpu-24gb
    """
    from charloom import planning

    root = _workflow_folder()
    names = {path.stem for path in (root / "config" / "characters").glob("*.yaml")}
    asked = [_named(target) if target.endswith((".yaml", ".yml")) else target for target in targets or []]
    files = [f"results/{target}/final.safetensors" if target in names else target for target in asked]
    output = planning.dry_run(files, root)
    for line in [*planning.remarks(output), *planning.summary(planning.groups(output))]:
        print(line)


@app.command("import-ai-toolkit")
@_one_line
def import_ai_toolkit(
    job: Annotated[Path, typer.Argument(help="job YAML of ai-toolkit")],
    name: Annotated[str | None, typer.Option(help="name of the character file; that of the job if not given")] = None,
) -> None:
    """Write a character file out of a job of ai-toolkit, and say what became of every key."""
    from charloom import aitoolkit, scaffold

    root = _workflow_folder()
    imported = aitoolkit.read(job, root, name)
    path = root / "config" / "characters" / f"{imported.id}.yaml"
    captions = root / "config" / "captions" / imported.id
    there = [captions / f"{shot}.txt" for shot in imported.captions if (captions / f"{shot}.txt").exists()]
    if there:
        raise UserError(f"{there[0]}: exists already and is not overwritten; choose another name with --name")
    scaffold.write_new(path, aitoolkit.character_yaml(imported, job))
    for shot, text in imported.captions.items():
        scaffold.write_new(captions / f"{shot}.txt", text + "\n")
    print(f"{path}: written, {len(imported.understood)} keys understood, {len(imported.ignored)} ignored")
    if imported.captions:
        print(f"{captions}/: {len(imported.captions)} captions, taken over word for word")
    for key, why in imported.ignored.items():
        print(f"ignored: {key}: {why}")
    for line in dict.fromkeys([*imported.todo, *_problems(root, imported.id)]):
        print(f"to do: {line}")


@app.command()
@_one_line
def verify(
    file: Annotated[Path, typer.Argument(help="a LoRA, .safetensors")],
    base: Annotated[Path | None, typer.Option(help="folder of the base, to check shapes and names against")] = None,
) -> None:
    """Check that a LoRA file is whole, loads everywhere and does something."""
    import json

    if not file.is_file():
        raise UserError(f"{file}: there is no such file")
    from charloom.lora.verify import module_shapes
    from charloom.lora.verify import verify as check

    shapes = None
    if base is not None:
        config = base / "transformer" / "config.json"
        try:
            shapes = module_shapes(json.loads(config.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{config}: is no configuration of a Z-Image transformer ({error})") from None
    report = check(file, shapes)
    print(report)
    if not report.ok:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
