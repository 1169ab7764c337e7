"""Write the ComfyUI workflows of a character, each for the window and for the server (API format)."""

from __future__ import annotations

from charloom.base import locks
from charloom.core import files
from charloom.core.errors import cli
from charloom.core.layout import Results
from charloom.deliver import comfyui
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, arguments.results.root.name)
    if arguments.settings["miniature"]:
        log("warning: ComfyUI cannot load a LoRA of the miniature; train on z-image-turbo for these workflows")
    about = {**arguments.settings, "shift": locks.shift(arguments.lock)}
    for name in comfyui.WORKFLOWS:
        graph = comfyui.workflow(name, about)
        files.write_json(arguments.results.comfyui(name), graph.as_ui())
        files.write_json(arguments.results.comfyui_api(name), graph.as_api())


if __name__ == "__main__":
    cli(main)
