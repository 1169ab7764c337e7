"""The project that asks others: pictures by an API, captions by an API, a judge that is found out by itself.

Beside Mara, whose LoRA is made, Orla's pictures are drawn by a pipeline on this machine, with a further data set, and
of Nika, a drawn person, there are the reference and a picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import judge_models
import small_project
from small_project import CHARACTER, TARGET, write_yaml

RECIPE = {
    "network": {"rank": 2, "alpha": 2},
    "train": {"steps": 2, "lr": 1.0e-3},
    "save": {"every": 2, "keep": "all"},
    "sample": {"every": 2, "steps": 1, "width": 64, "height": 64, "strengths": []},
    "data": {"resolutions": [64]},
}
ORLA = ("source/closeup-01.png", "dataset/others/a-1.png", "dataset/others/a-1.txt")
NIKA = ("reference.png", "source/closeup-01.png")
TARGETS = (TARGET, *(f"results/orla/{name}" for name in ORLA), *(f"results/nika/{name}" for name in NIKA))
RULES = (
    *("caption_image", "convert_set_picture", "crop_watermark", "draw_picture", "draw_reference", "generate_picture"),
    *("generate_reference", "lock_judge", "make_reference", "make_source_image", "propose_captions"),
    *("score_checkpoint", "study_references", "take_set_caption", "write_caption"),
)
"""The rules that faults are about here: those of no other project, and three that do something else here."""
ASKING = ("caption_image", "generate_picture", "generate_reference")


def prepare(folder: Path, base: dict[str, Any], url: str) -> Path:
    """The configuration, with both APIs at ``url``; there is a tiny base already."""
    judge_models.dinov2(folder / "resources/dinov2")
    write_yaml(
        folder / "config/bases/mini.yaml",
        {**base, "judge": "auto", "judge_models": {"dinov2": {"path": "resources/dinov2"}}},
    )
    write_yaml(folder / "config/config.yaml", {**small_project.CONFIG, "recipe": RECIPE, "device": "cpu"})
    (folder / "pics").mkdir()
    small_project.picture(folder / "pics/a-1.png", (96, 80))
    (folder / "pics/a-1.txt").write_text("a photo of somebody else\n")
    drawn = {"model": small_project.BASE["path"], "width": 64, "height": 64, "num_inference_steps": 2, "strength": 0.9}
    people: dict[str, dict[str, Any]] = {
        "mara": {
            "images": {"source": "gemini", "gemini": {"base_url": url, "price": 0.04}, "count": 2},
            "captions": {"captioner": {"model": "seer", "base_url": f"{url}/v1"}, "accept": "auto"},
        },
        "orla": {
            "images": {"source": "diffusers", "diffusers": drawn, "count": 2},
            "datasets": [{"name": "others", "path": "pics", "regularization": True}],
        },
        "nika": {"images": {"source": "paperdoll", "count": 2}, "doll": CHARACTER["doll"]},
    }
    for name, own in people.items():
        one = {key: value for key, value in CHARACTER.items() if key != "doll"}
        one |= {"name": name.title(), "trigger": name.replace("a", "4"), "shots": one["shots"][:2]}
        one |= {"sample_prompts": one["sample_prompts"][:1], "crop": {"minimum": 64}, **own}
        write_yaml(folder / f"config/characters/{name}.yaml", one)
    return folder
