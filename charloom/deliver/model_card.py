"""Writes the model card of a LoRA on a hub: YAML for the hub's search and widgets, then what a visitor wants to know.

Front matter: https://huggingface.co/docs/hub/model-cards. No network access here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

_LICENSES = ("apache-2.0", "mit", "openrail", "creativeml-openrail-m", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0",
             "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "other")  # fmt: skip
"""Identifiers that the hub knows; any other licence becomes ``other``, with its name."""


@dataclass(frozen=True)
class Shown:
    """A picture on the card: its name in the repository, its prompt, and what else it was drawn with."""

    name: str
    prompt: str
    more: str = ""


def card(about: Mapping[str, Any], pictures: Sequence[Shown], licence: str | None = None) -> str:
    """The whole README.md.

    ``about`` holds ``id``, ``name``, ``trigger`` (empty if there is none), ``style`` (whether it is one), ``base``,
    ``base_repo`` (None if it is on no hub), ``license`` (of the base), ``miniature``, ``steps``, ``guidance``,
    ``width``, ``height`` and ``strength`` (None if it was not measured).
    """
    front = yaml.safe_dump(_front(about, pictures, licence), sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{front}---\n\n{_body(about, pictures)}"


def _front(about: Mapping[str, Any], pictures: Sequence[Shown], licence: str | None) -> dict[str, Any]:
    given = (licence or about["license"] or "other").strip()
    known = given.lower() in _LICENSES
    front: dict[str, Any] = {"license": given.lower() if known else "other"}
    if not known:
        front["license_name"] = re.sub(r"[^a-z0-9.]+", "-", given.lower()).strip("-") or "own"
    if about["base_repo"]:
        front |= {"base_model": about["base_repo"], "base_model_relation": "adapter"}
    front |= {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["lora", "text-to-image", "diffusers", "z-image", *(["style"] if about["style"] else [])],
    }
    if about["trigger"]:
        front["instance_prompt"] = about["trigger"]
    if alone := [one for one in pictures if not one.more]:
        front["widget"] = [{"text": one.prompt, "output": {"url": one.name}} for one in alone]
    return front


def introduction(about: Mapping[str, Any]) -> str:
    """What the file is, and its trigger."""
    what = f"`{about['id']}.safetensors` is a LoRA for {about['base']}."
    name, trigger = plain(about["name"]), about["trigger"]
    if about.get("style"):
        return f"{what} " + (f"`{trigger}` in a prompt is the style {name}." if trigger else "Its style needs no word.")
    return f"{what} `{trigger}` in a prompt is {name}."


def _body(about: Mapping[str, Any], pictures: Sequence[Shown]) -> str:
    name, id_ = plain(about["name"]), about["id"]
    parts = [f"# {name}", introduction(about)]
    if about["miniature"]:
        parts.append("It fits charloom's miniature alone, which ComfyUI and the hub's own widgets cannot load.")
    if pictures:
        parts.append("\n".join(map(_picture, pictures)))
    strength = f" at a strength of {about['strength']:g}" if about["strength"] else ""
    prompt = next((one.prompt for one in pictures), f"a photo of {about['trigger']}" if about["trigger"] else "a photo")
    own = f"```sh\ncharloom draw {id_} {shlex.quote(prompt)} --lora {id_}.safetensors\n```"
    elsewhere = (
        f"In ComfyUI put `{id_}.safetensors` into `models/loras` and load it with LoraLoaderModelOnly{strength}: "
        f"{about['steps']} steps, cfg {about['guidance']:g}, sampler euler, scheduler simple."
    )
    parts += ["## Use", own if about["miniature"] else elsewhere]
    if about["base_repo"]:
        parts.append(_python(about, prompt))
    parts.append("Trained with charloom; how, by digest, stands in the header of the file.")
    return "\n\n".join(parts) + "\n"


def _python(about: Mapping[str, Any], prompt: str) -> str:
    import json

    less = about["strength"] not in (None, 1.0)
    name = f', adapter_name="{about["id"]}"' if less else ""
    at = f'pipe.set_adapters("{about["id"]}", {about["strength"]:g})\n' if less else ""
    scale = max(0.0, about["guidance"] - 1.0)  # in the pipeline 0 means no guidance, in the recipe 1
    return f"""```python
import torch
from diffusers import ZImagePipeline

pipe = ZImagePipeline.from_pretrained({json.dumps(about["base_repo"])}, torch_dtype=torch.bfloat16).to("cuda")
pipe.load_lora_weights({json.dumps(about["repo"])}, weight_name="{about["id"]}.safetensors"{name})
{at}image = pipe(
    {json.dumps(prompt, ensure_ascii=False)},
    num_inference_steps={about["steps"]}, guidance_scale={scale:g}, width={about["width"]}, height={about["height"]},
).images[0]
```"""


def _picture(one: Shown) -> str:
    words = _quoted(f"{one.prompt} ({one.more})" if one.more else one.prompt)
    return f'<img src="{one.name}" width="256" alt="{words}" title="{words}">'


def plain(text: str) -> str:
    """``text`` without characters that Markdown or HTML would interpret."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _quoted(text: str) -> str:
    import html

    return html.escape(" ".join(text.split()), quote=True)
