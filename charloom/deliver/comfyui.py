"""The ComfyUI workflows of a character: what to draw, with which files and settings.

With the sampler ``euler`` and the scheduler ``simple`` at the base's shift, ComfyUI uses the same noise levels as
charloom's previews. ComfyUI's own Z-Image templates use ``res_multistep``; the note in each workflow mentions it.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from charloom.deliver.graph import Graph, Node

WORKFLOWS = ("portrait", "scenes", "character-and-style")
PORTRAIT = (1024, 1024)
SCENE = (1920, 1088)
SCENE_STEPS = 36
STYLE_STRENGTH = 0.8
_HUB = "https://huggingface.co/Comfy-Org/{repo}/resolve/main/split_files"
_PUBLISHED = {
    "z_image_turbo_bf16.safetensors": ("z_image_turbo", "diffusion_models"),
    "z_image_bf16.safetensors": ("z_image", "diffusion_models"),
    "qwen_3_4b.safetensors": ("z_image_turbo", "text_encoders"),
    "ae.safetensors": ("z_image_turbo", "vae"),
}
"""Files that ComfyUI can offer to download: repo and folder, which is the same below ``models/`` and on the hub."""


@dataclass(frozen=True)
class Lora:
    """A LoRA by its file name in ``models/loras``, at a strength; ``title`` is that of its node."""

    file: str
    title: str
    strength: float


@dataclass(frozen=True)
class Drawing:
    """One picture: text, size in pixels, sampler steps, cfg (1: no guidance), seed, LoRAs in order."""

    text: str
    width: int
    height: int
    steps: int
    cfg: float
    seed: int
    loras: Sequence[Lora]


def workflow(name: str, about: Mapping[str, Any]) -> Graph:
    """Build one of :data:`WORKFLOWS`.

    ``about`` holds ``id``, ``name`` and ``trigger`` of the character; the file names ``lora``, ``model``,
    ``text_encoder``, ``vae`` and ``style`` (a second LoRA); ``prompts`` by workflow, ``seed``, ``steps``, ``cfg`` (1
    is without guidance) and ``shift``; and ``miniature``. Where they differ from Z-Image-Turbo's: ``label`` of the
    base, ``scene_steps``, and with guidance ``negative``, the negative prompt.
    """
    width, height = PORTRAIT if name == "portrait" else SCENE
    steps = about["steps"] if name == "portrait" else about.get("scene_steps", SCENE_STEPS)
    loras = [Lora(about["lora"], f"{about['name']} (character)", 1.0)]
    if name == "character-and-style":
        loras.append(Lora(about["style"], "Style on top", STYLE_STRENGTH))
    drawing = Drawing(about["prompts"][name], width, height, steps, about["cfg"], about["seed"], loras)
    return picture(name, drawing, about, _note(name, about))


def picture(name: str, drawing: Drawing, about: Mapping[str, Any], note: str = "") -> Graph:
    """The workflow that draws one picture; ``about`` as for :func:`workflow`, but only the base's files are needed."""
    graph = Graph(f"{about['id']}/{name}")
    model = _file(
        graph.add(
            "UNETLoader",
            about.get("label", "Z-Image-Turbo"),
            (0, 0),
            {"unet_name": about["model"], "weight_dtype": "default"},
        )
    )
    clip = _file(graph.add("CLIPLoader", "Text encoder", (0, 180),
                           {"clip_name": about["text_encoder"], "type": "lumina2", "device": "default"}))  # fmt: skip
    vae = _file(graph.add("VAELoader", "VAE", (0, 390), {"vae_name": about["vae"]}))
    latent = graph.add("EmptySD3LatentImage", "Size", (0, 540),
                       {"width": drawing.width, "height": drawing.height, "batch_size": 1})  # fmt: skip
    for index, lora in enumerate(drawing.loras):
        model = graph.add("LoraLoaderModelOnly", lora.title, (1, 180 * index),
                          {"lora_name": lora.file, "strength_model": lora.strength}, model=model)  # fmt: skip
    below = 180 * max(0, len(drawing.loras) - 2)
    model = graph.add("ModelSamplingAuraFlow", "Shift", (1, 360 + below), {"shift": about["shift"]}, model=model)
    positive = graph.add(
        "CLIPTextEncode", f"Prompt ({about['trigger']} is {about['name']})", (2, 0), {"text": drawing.text}, clip=clip
    )
    if drawing.cfg > 1:
        away = about.get("negative", "")
        negative = graph.add("CLIPTextEncode", "Negative prompt", (2, 300), {"text": away}, clip=clip)
    else:
        negative = graph.add("ConditioningZeroOut", "No negative prompt at cfg 1", (2, 300), conditioning=positive)
    sampled = graph.add(
        "KSampler",
        "Sampler",
        (3, 0),
        {
            "seed": drawing.seed,
            "control_after_generate": "fixed",
            "steps": drawing.steps,
            "cfg": drawing.cfg,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
    )
    image = graph.add("VAEDecode", "Decode", (3, 330), samples=sampled, vae=vae)
    graph.add("SaveImage", "Picture", (4, 0), {"filename_prefix": f"{about['id']}-{name}"}, images=image)
    if note:
        graph.add("MarkdownNote", "Read me", (1, 520 + below), {"text": note})
    return graph


def _file(node: Node) -> Node:
    """Tell ComfyUI where to download a missing file, if its templates use it."""
    name = next(iter(node.widgets.values()))
    if name in _PUBLISHED:
        repo, folder = _PUBLISHED[name]
        node.models = [{"name": name, "url": f"{_HUB.format(repo=repo)}/{folder}/{name}", "directory": folder}]
    return node


def _note(name: str, about: Mapping[str, Any]) -> str:
    lines = [
        f"## {about['name']}",
        f"Put `{about['lora']}` into `ComfyUI/models/loras`. `{about['trigger']}` in the prompt is {about['name']}.",
        "The LoRA loads whole from ComfyUI 0.3.76 on.",
        # The workflows are written before anything is trained.
        "**Strength:** 1 here; set the one that the report recommends.",
        "**Sampler:** `euler` with `simple` draws what charloom's previews show. The template of ComfyUI uses "
        "`res_multistep`; try it in its place.",
    ]
    if name != "portrait":
        steps = about.get("scene_steps", SCENE_STEPS)
        lines.append(f"**Size:** {SCENE[0]} x {SCENE[1]} at {steps} steps; both sides must be multiples of 16.")
    if name == "character-and-style":
        lines.append(
            f"**Style:** replace `{about['style']}` with the LoRA of a style. If the face suffers, lower its strength "
            f"({STYLE_STRENGTH:g}) first."
        )
    if about["miniature"]:
        lines.append(
            "**This LoRA was trained on charloom's miniature**, which ComfyUI cannot load. Train with "
            "`base: z-image-turbo`, and this workflow fits."
        )
    return "\n\n".join(lines)
