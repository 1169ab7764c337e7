"""Python snippets for diffusers in the report: one character, two in turn, one in a style. Tests run all of them."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

STREET = "a medium shot photo of {trigger}, smiling, city street"


@dataclass(frozen=True)
class Drawing:
    """How a picture is drawn: the base (folder or repo), steps, guidance (1: none), size in pixels, seed, and the
    negative prompt, which only guidance uses."""

    source: str
    steps: int
    guidance: float
    width: int
    height: int
    seed: int
    negative: str = ""


def command(id_: str, prompt: str, strength: float | None = None) -> str:
    """The command that draws four pictures with charloom, at the recommended strength if that is not 1."""
    less = f" --strength {strength:g}" if strength not in (None, 1.0) else ""
    return f"charloom draw {id_} {shlex.quote(prompt)} --count 4{less}"


def character(id_: str, prompt: str, how: Drawing, strength: float | None = None) -> str:
    """A snippet that draws one character, at the recommended strength if there is one."""
    advice = "1.0)  # 0.7 to 0.9: more freedom in the scene" if strength is None else f"{strength})  # as recommended"
    return f"""{_pipeline(how)}
pipe.load_lora_weights(
    "results/{id_}/final.safetensors", adapter_name="{id_}"
)
pipe.set_adapters("{id_}", {advice}
image = pipe(
    {json.dumps(prompt, ensure_ascii=False)},
    {_options(how)}
).images[0]
image.save("{id_}.png")"""


def two_characters(id_: str, trigger: str, how: Drawing, prompt: str = STREET) -> str:
    """A snippet that draws two characters in turn: both LoRAs stay loaded, and the pipeline switches between them.

    ``prompt`` is for both, with ``{trigger}``.
    """
    other, word = ("nika", "n1ka") if id_ != "nika" else ("leyla", "l3yla")
    people = f'{{"{id_}": "{trigger}", "{other}": "{word}"}}'
    return f"""{_pipeline(how)}
people = {people}  # names and triggers of yours
for name in people:
    pipe.load_lora_weights(
        f"results/{{name}}/final.safetensors", adapter_name=name
    )
for name, trigger in people.items():
    pipe.set_adapters(name, 1.0)  # switches; nothing is loaded again
    image = pipe(
        f{json.dumps(prompt, ensure_ascii=False)},
        {_options(how, 8)}
    ).images[0]
    image.save(f"{{name}}-street.png")"""


def stacked(id_: str, trigger: str, how: Drawing) -> str:
    """A snippet that draws a character in a style: both LoRAs at their own strengths in one pass."""
    prompt = ", ".join(part for part in ("a medium shot photo of l3yla, smiling, city street", trigger) if part)
    return f"""{_pipeline(how)}
for name in ("leyla", "{id_}"):  # a character of yours, and the style
    pipe.load_lora_weights(
        f"results/{{name}}/final.safetensors", adapter_name=name
    )
pipe.set_adapters(["leyla", "{id_}"], [1.0, 0.8])  # their strengths
image = pipe(
    {json.dumps(prompt, ensure_ascii=False)},
    {_options(how)}
).images[0]
image.save("leyla-{id_}.png")"""


def _pipeline(how: Drawing) -> str:
    return f"""import torch
from diffusers import ZImagePipeline

pipe = ZImagePipeline.from_pretrained(
    {json.dumps(how.source)}, torch_dtype=torch.bfloat16
)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")"""


def _options(how: Drawing, indent: int = 4) -> str:
    # In the pipeline 0 means no guidance, in the recipe 1.
    scale = max(0.0, how.guidance - 1.0)
    away = how.negative if scale else ""
    lines = (
        *([f"negative_prompt={json.dumps(away, ensure_ascii=False)},"] if away else []),
        f"num_inference_steps={how.steps}, guidance_scale={scale:g},",
        f"width={how.width}, height={how.height},",
        f"generator=torch.Generator().manual_seed({how.seed}),",
    )
    return ("\n" + " " * indent).join(lines)
