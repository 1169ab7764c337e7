"""A diffusers pipeline on this machine that takes a picture and a prompt: FLUX.2 klein, Qwen-Image-Edit, …

It may be any pipeline folder or hub model whose pipeline, or the image-to-image pipeline of its family, has the
arguments ``image`` and ``prompt``. Only safetensors are loaded, and no code from the model's repository.
"""

from __future__ import annotations

import inspect
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.config.generation import Generation
from charloom.core import misfits, pictures
from charloom.core.errors import UserError, reason
from charloom.dataset.sources import generated
from charloom.dataset.sources.generated import inputs, make, settings
from charloom.dataset.sources.orders import Order

if TYPE_CHECKING:
    from charloom.config.character import Character

__all__ = ["inputs", "make", "open", "picture", "problems", "settings"]

WHERE = "images.diffusers"
ROOM = 3 * 2**30
"""Bytes of memory besides the weights for a picture of 1024x1024: activations, autoencoder, reference."""
LOOKS = ("width", "height", "num_inference_steps", "guidance_scale", "strength", "seed", "options", "revision")
OURS = ("image", "prompt", "generator", "num_images_per_prompt", "output_type", "return_dict")
"""Arguments that this module sets itself."""


def folder_of(generation: Generation) -> Path | None:
    """The folder of a model on this machine; None for a hub model."""
    name = os.path.expanduser(generation.settings["model"])
    return Path(name) if name.startswith((".", "/")) or Path(name).is_dir() else None


def files_of(folder: Path) -> list[Path]:
    """The files of a pipeline: its configuration and weights."""
    kinds = (".json", ".safetensors", ".txt", ".model", ".jinja")
    return sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file())


def problems(character: Character) -> list[str]:
    """A folder without a pipeline, and options that charloom sets itself."""
    assert character.generation is not None
    folder = folder_of(character.generation)
    if folder and not (folder / "model_index.json").is_file():
        return [f"{WHERE}.model: {folder} holds no pipeline (no model_index.json); name another folder, or a hub model"]
    wrong = [name for name in character.generation.settings["options"] if name in OURS]
    lines = [f"{WHERE}.options.{name}: is set by charloom; remove it" for name in wrong]
    return lines + generated.problems(character)


def picture(character: Character) -> dict[str, Any]:
    """The hub model and everything that is passed to it. The job adds the content of a folder."""
    assert character.generation is not None
    given = character.generation.settings
    kept = {key: given[key] for key in LOOKS if given.get(key) not in (None, {})}
    if folder_of(character.generation):
        del kept["revision"]
        return kept
    return {"model": given["model"], **kept}


def open(how: dict[str, Any]) -> Diffusers:
    """Load the pipeline; ``how`` has ``model``, ``revision``, ``offload``, ``device`` (torch's), ``limit`` (GiB of GPU
    memory, or None) and ``log``.

    Raises:
        UserError: it cannot be loaded, or does not accept a picture.
    """
    return Diffusers(how)


class Diffusers:
    """Draws one picture at a time, so that no picture depends on another."""

    def __init__(self, how: dict[str, Any]) -> None:
        import torch

        self.device = torch.device(how["device"])
        self.pipeline = _loaded(how, torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.arguments = set(inspect.signature(self.pipeline.__call__).parameters)
        if not {"image", "prompt"} <= self.arguments:
            raise UserError(
                f"{WHERE}.model: {type(self.pipeline).__name__} takes no picture as input; use a model that edits"
            )
        self.pipeline.set_progress_bar_config(disable=True)
        how["log"](f"{type(self.pipeline).__name__}: {place(self.pipeline, self.device, how)}")

    def fresh(self) -> None:
        pass  # pictures are independent

    def draw(self, order: Order) -> bytes:
        import torch

        assert order.reference is not None
        wanted = call(order.settings, self.arguments)
        generator = torch.Generator("cpu").manual_seed(order.seed)
        reference = pictures.read(order.reference).image
        if "strength" in self.arguments:  # starts from the reference itself, which must have the picture's size
            from PIL import ImageOps

            reference = ImageOps.fit(reference, (order.settings["width"], order.settings["height"]))
        try:
            with torch.inference_mode():
                drawn = self.pipeline(image=reference, prompt=order.prompt, generator=generator, **wanted).images[0]
        except torch.OutOfMemoryError:
            raise UserError(
                f"{WHERE}: a picture of {order.settings['width']}x{order.settings['height']} needs more GPU memory "
                "than there is; lower width and height, or set offload: sequential"
            ) from None
        except Exception as error:  # any author's pipeline, with the user's arguments
            what = f"{type(error).__name__}: {reason(error)}"
            raise UserError(
                f"{WHERE}: {type(self.pipeline).__name__} cannot draw ({what}); use another model"
            ) from error
        out = io.BytesIO()
        drawn.convert("RGB").save(out, format="PNG", compress_level=4)
        return out.getvalue()


def call(settings: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The arguments to call a pipeline with that accepts those in ``known``.

    Raises:
        UserError: it does not accept one that the user has set.
    """
    wanted: dict[str, Any] = {key: settings[key] for key in ("width", "height") if key in known}
    # Distilled and ordinary pipelines of a family use different names for guidance.
    names = {
        "num_inference_steps": ("num_inference_steps",),
        "guidance_scale": ("true_cfg_scale", "guidance_scale"),
        "strength": ("strength",),
    }
    for key, candidates in names.items():
        if key in settings:
            name = next((name for name in candidates if name in known), None)
            if name is None:
                raise UserError(f"{WHERE}.{key}: this pipeline has no such setting; remove it")
            wanted[name] = settings[key]
    for name, value in settings.get("options", {}).items():
        if name not in known:
            raise UserError(
                f"{WHERE}.options.{name}: this pipeline has no such argument; use one of {', '.join(sorted(known))}"
            )
        wanted[name] = value
    return wanted


def place(pipeline: Any, device: Any, how: dict[str, Any]) -> str:
    """Put a pipeline on ``device`` so that it fits into GPU memory; returns how, in words."""
    wanted = how["offload"]
    if device.type != "cuda":
        pipeline.to(device)
        return f"on {device}"
    sizes = _sizes(pipeline)
    whole, largest = sum(sizes.values()), max(sizes.values())
    budget = _budget(how.get("limit"), device)
    if wanted == "auto":
        wanted = offload(whole, largest, budget)
    if wanted == "none":
        pipeline.to(device)
        return f"{whole / 2**30:.1f} GiB of weights on the GPU"
    if wanted == "model":
        pipeline.enable_model_cpu_offload(device=device)
        return f"the part at work on the GPU, {largest / 2**30:.1f} of {whole / 2**30:.1f} GiB"
    pipeline.enable_sequential_cpu_offload(device=device)
    return f"layers one by one on the GPU, {whole / 2**30:.1f} GiB in main memory"


def offload(whole: int, largest: int, budget: int) -> str:
    """How to offload on a GPU with ``budget`` bytes: ``none``, ``model`` (part by part), or ``sequential`` (layers)."""
    if whole + ROOM <= budget:
        return "none"
    return "model" if largest + ROOM <= budget else "sequential"


def _budget(limit: float | None, device: Any) -> int:
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return min(free, int(limit * 2**30)) if limit is not None else free


def _sizes(pipeline: Any) -> dict[str, int]:
    """Bytes of weights, by part of the pipeline."""
    import torch

    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {name: sum(p.numel() * p.element_size() for p in part.parameters()) for name, part in parts.items()}


def _loaded(how: dict[str, Any], dtype: Any) -> Any:
    """The pipeline, or, if it takes no picture, the image-to-image pipeline with the same parts."""
    misfits.hide(misfits.BESIDE_TORCH)
    from diffusers import AutoPipelineForImage2Image, DiffusionPipeline

    name = os.path.expanduser(how["model"])
    revision = {} if Path(name).is_dir() else {"revision": how["revision"]}
    try:
        pipeline = DiffusionPipeline.from_pretrained(name, torch_dtype=dtype, use_safetensors=True, **revision)
        if "image" not in inspect.signature(pipeline.__call__).parameters:
            pipeline = AutoPipelineForImage2Image.from_pipe(pipeline, torch_dtype=dtype)
    except MemoryError:
        raise UserError(f"{WHERE}.model: {name} does not fit into main memory; use a smaller one") from None
    except Exception as error:  # whatever the hub, the network, transformers or a broken file raise
        raise UserError(
            f"{WHERE}.model: {name} cannot be loaded ({type(error).__name__}: {reason(error)}); "
            "use another model, or update diffusers"
        ) from error
    return pipeline
