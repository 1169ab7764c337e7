"""Draw a scene with the finished LoRA; if it is not stored, draw the whole gallery, picture by picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.deliver import infotext
from charloom.engine.options import EngineOptions
from charloom.workflow import gallery, jobs, samples
from charloom.workflow.arguments import value


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    parser.add_argument("--lora", type=Path, required=True, help="the finished LoRA")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    parser.add_argument(
        "--siblings", type=value, required=True, help="all scenes: settings and styles by the name of the prompt, JSON"
    )
    parser.add_argument("--engine", type=value, default={}, help="how the GPU is used, JSON")
    arguments = parser.parse_args()
    log, store, asked = jobs.Log(arguments.log, "gallery"), arguments.store, arguments.settings
    made = gallery.Gallery(arguments.results, arguments.lora, arguments.lock)

    def wanted(prompt: str, scene: dict[str, Any]) -> samples.Wanted | None:
        return made.wanted(prompt, scene["drawing"], [(Path(path), strength) for path, strength in scene["styles"]])

    own = wanted(asked["prompt"], {**arguments.siblings[asked["prompt"]], "drawing": asked["drawing"]})
    if own is None:
        raise UserError(f"{arguments.results}: the embedding of {asked['prompt']} is missing; make it first")

    def make() -> None:
        options = EngineOptions.from_values(arguments.engine)
        device = jobs.torch_device(arguments.device, arguments.threads, options.limit, arguments.lock)
        others = [one for prompt, scene in arguments.siblings.items() if (one := wanted(prompt, scene))]
        gallery.make(made, [own, *(one for one in others if one.key != own.key)], store, device, log, options)

    drawn = jobs.stored(store, samples.KIND, own.key, ".png", f"sample-{arguments.results.name}", make)
    names = [asked["about"]["id"], *(style["style"] for style in asked.get("styles", ()))]
    loras = [
        infotext.Used(name, infotext.tensors_hash(path), strength)
        for name, (path, strength) in zip(names, own.loras, strict=True)
    ]
    about = {**asked["about"], "shift": locks.shift(arguments.lock)}
    texts = infotext.chunks(asked["prompt"], {**own.settings, "text": asked["text"]}, loras, about)
    infotext.write(drawn, arguments.output, texts)


if __name__ == "__main__":
    cli(main)
