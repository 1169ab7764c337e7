"""Commands about finished files: convert, merge and publish LoRAs, draw on a ComfyUI server, unpack a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from charloom.cli.naming import known, workflow_folder
from charloom.core import files, last_run, layout, words
from charloom.core.errors import UserError
from charloom.core.versions import RECIPES
from charloom.train.keys import RECIPE


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="a LoRA, DoRA or LoKr of any trainer, .safetensors")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="file to write")],
    to: Annotated[str, typer.Option("--to", help="charloom, diffusers, comfyui or kohya")],
    strength: Annotated[float, typer.Option(help="strength to fold into the file")] = 1.0,
    fused: Annotated[
        bool, typer.Option("--fused", help="with --to kohya: fuse q, k and v, as ComfyUI reads them")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="round to bf16, fp16 or fp32; without it nothing is rounded")
    ] = None,
) -> None:
    """Rewrite a LoRA for another program. It changes every weight by the same amount as before."""
    _safetensors(output)
    from charloom.lora import convert as conversion

    if to not in conversion.TARGETS:
        raise UserError(f"--to {to}: give one of {', '.join(conversion.TARGETS)}")
    if fused and to != "kohya":
        raise UserError(
            "--fused: goes with --to kohya (comfyui always fuses q, k and v, the others never do); leave it out"
        )
    _there(source)
    made = conversion.convert(source, to, strength=strength, fused=fused, dtype=_dtype(dtype))
    _write(output, made.tensors, made.metadata)
    what = f", {made.modules} modules" + (f", strength {strength:g} folded in" if strength != 1.0 else "")
    print(f"{output}: {conversion.TARGETS[to]}{what} ({output.stat().st_size / 1e6:.1f} MB)")
    for note in made.notes:
        print(f"note: {note}")


def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="A B …", help="two or more LoRAs, .safetensors")],
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write")],
    strengths: Annotated[str | None, typer.Option(help="one for each file, e.g. 1,0.8; 1 for all if not given")] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="reduce to this rank; exact, with all ranks, if not given")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="round to bf16, fp16 or fp32; without it nothing is rounded")
    ] = None,
) -> None:
    """Merge LoRAs into one file with the sum of their changes."""
    if len(sources) < 2:
        raise UserError(
            f"{sources[0]}: is only one file; name two or more, or fold a strength in with charloom convert"
        )
    _safetensors(output)
    try:
        given = [float(part) for part in strengths.split(",")] if strengths else [1.0] * len(sources)
    except ValueError:
        raise UserError(f"--strengths {strengths}: give numbers with commas between them, e.g. 1,0.8") from None
    for source in sources:
        _there(source)
    from charloom.lora import combine

    made = combine.merge(sources, given, rank, _dtype(dtype))
    _write(output, made.tensors, made.metadata)
    low, high = min(made.ranks.values()), max(made.ranks.values())
    ranks = f"rank {low}" if low == high else f"ranks {low} to {high}"
    error = f", {made.error:.2%} away from the exact sum" if rank is not None else "" if dtype else ", exact"
    error += f", then rounded to {dtype}" if dtype else ""
    print(f"{output}: {len(made.ranks)} modules, {ranks}{error} ({output.stat().st_size / 1e6:.1f} MB)")
    for note in made.notes:
        print(f"note: {note}")


def comfy(
    name: Annotated[str, typer.Argument(help="a character")],
    server: Annotated[str, typer.Option(help="address of a running ComfyUI")] = "http://127.0.0.1:8188",
    workflow: Annotated[
        str, typer.Option(help="portrait, scenes, character-and-style, or a file in API format")
    ] = "portrait",
    prompt: Annotated[
        str | None, typer.Option(help="text to draw, with {trigger}; the workflow's if not given")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed; the workflow's if not given")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="picture to write, .png")] = None,
    timeout: Annotated[float, typer.Option(min=0.0, help="seconds to wait for the picture")] = 600.0,
) -> None:
    """Draw a character with a running ComfyUI, and save the picture."""
    from charloom.deliver import drawing
    from charloom.deliver.server import Server

    name = known(name)
    made = layout.results(name)
    path = Path(workflow) if workflow.endswith(".json") else made.comfyui_api(workflow)
    loaded = drawing.load(path, last_run.again(Path(), name, path.as_posix()))
    if prompt is not None and words.PLACEHOLDER in prompt:
        from charloom.config import project

        trigger = project.as_last_run(Path(), name, ready=False).character(name).trigger
        prompt = prompt.replace(words.PLACEHOLDER, trigger)
    used = drawing.adjust(loaded, path, prompt=prompt, seed=seed)
    target = output or made.root / "comfyui" / "pictures" / f"{path.name.split('.')[0]}-{used}.png"
    if target.exists():
        raise UserError(f"{target}: exists already and is not overwritten; give another --seed or --output")
    one = Server(server)
    number = one.queue(loaded)
    print(f"{one.url}: queued {path.name}, seed {used}", flush=True)
    for saved in drawing.save(one.pictures(one.wait(number, timeout)), target, one.url):
        print(f"{saved}: written")


def unpack(
    file: Annotated[Path, typer.Argument(help="a bundle that charloom made, .zip")],
) -> None:
    """Put the character of a bundle into this workflow, so that it can be trained again. Never overwrites a file."""
    workflow_folder()
    from charloom.deliver import unpack as unpacking

    made = unpacking.unpack(file, Path("."), {**RECIPES, "train": RECIPE})
    name = made.character
    print(f"{file}: {name}, {words.several(len(made.written), 'new file')}")
    for path in made.written:
        if path.suffix == ".yaml":
            print(f"  {path.as_posix()}")
    for note in made.notes:
        print(f"note: {note}")
    print(f"next: snakemake --cores 2 {layout.results(name).final.as_posix()}")


def publish(
    name: Annotated[str, typer.Argument(help="a finished character or style")],
    repo: Annotated[str, typer.Option(help="repository of the hub, owner/name; created if missing")],
    yes: Annotated[bool, typer.Option("--yes", help="upload without asking")] = False,
    public: Annotated[bool, typer.Option("--public", help="visible to everybody; private if not given")] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="licence of the LoRA, e.g. cc-by-nc-4.0; the base's if not given")
    ] = None,
) -> None:
    """Upload a LoRA with its model card and pictures to a hub repository. Lists the files first, and asks."""
    import sys

    from charloom.config import project
    from charloom.deliver import publish as publishing

    name = known(name)
    workflow = project.as_last_run(Path(), name, ready=False)
    character = workflow.character(name)
    made = publishing.release(character, workflow.bases[character.base], layout.results(name), repo, license_)
    print(f"{repo}, {'public' if public else 'private'}:")
    for line in made.listing():
        print(line)
    if not yes and not (sys.stdin.isatty() and typer.confirm("Upload these?")):
        print("nothing was uploaded; add --yes to upload")
        return
    print(publishing.upload(made, public, print))


def _dtype(name: str | None) -> Any:
    """The type that factors are rounded to; None for none."""
    from charloom.lora.export import DTYPES

    if name is not None and name not in DTYPES:
        raise UserError(f"--dtype {name}: give one of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def _there(source: Path) -> None:
    if not source.is_file():
        raise UserError(f"{source}: there is no such file; correct the path")


def _safetensors(output: Path) -> None:
    """Check the name of a LoRA to write, before anything slow."""
    if output.suffix != ".safetensors":
        raise UserError(f"{output}: a LoRA is written as .safetensors; choose a name that ends in that")
    if output.exists():
        raise UserError(f"{output}: exists already and is not overwritten; choose another name")


def _write(output: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    from charloom.core.tensors import write_safetensors

    with files.whole(output) as temporary:
        write_safetensors(temporary, tensors, metadata)
