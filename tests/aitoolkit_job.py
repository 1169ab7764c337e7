"""A job of ai-toolkit to import, whole or with keys changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from cli_helpers import ROOT, call, root, said  # noqa: F401 (root is a fixture)
from PIL import Image

from charloom.config import schema
from charloom.config.yaml import merge
from charloom.interop.aitoolkit import read as aitoolkit

JOB = """
job: extension
config:
  name: Mira Test
  process:
    - type: sd_trainer
      training_folder: output
      device: cuda:0
      trigger_word: m1ra
      network: {type: lora, linear: 24, linear_alpha: 12}
      save: {dtype: bf16, save_every: 200, max_step_saves_to_keep: 6}
      datasets:
        - folder_path: /nowhere/mira
          caption_ext: txt
          caption_dropout_rate: 0.1
          num_repeats: 2
          flip_x: false
          flip_y: false
          cache_latents_to_disk: false
          is_reg: false
          resolution: [512, 768]
      train:
        batch_size: 2
        gradient_accumulation_steps: 3
        steps: 2000
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: true
        noise_scheduler: flowmatch
        optimizer: adamw8bit
        lr: 5e-5
        weight_decay: 1e-3
        dtype: bf16
        loss_type: mae
        timestep_type: weighted
        timestep_bias: balanced
      model:
        name_or_path: Tongyi-MAI/Z-Image-Turbo
        adapter_path: ostris/zimage_turbo_training_adapter
        quantize: true
      sample:
        sampler: flowmatch
        sample_every: 200
        width: 768
        height: 1024
        seed: 7
        walk_seed: false
        skip_first_sample: true
        guidance_scale: 1.0
        sample_steps: 9
        prompts:
          - a portrait of m1ra under an umbrella, rainy street
          - a full body photo of [trigger], skating on a frozen lake
"""
"""Every key that the common job template of ai-toolkit for this model has, with values that are no defaults."""


def imported(tmp_path: Path, text: str = JOB, **changes: Any) -> aitoolkit.Imported:
    """The job with keys changed: ``train__lr=1``; None takes a key or a group out."""
    tree = yaml.safe_load(text)
    for dotted, value in changes.items():
        node = tree["config"]["process"][0]
        *groups, key = dotted.split("__")
        for group in groups:
            node = node[group][0] if group == "datasets" else node.setdefault(group, {})
        if value is None:
            node.pop(key, None)
        else:
            node[key] = value
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True))
    return aitoolkit.read(path, ROOT)


def recipe_of(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """All knobs that an import leads to, those of the schema included."""
    found = imported(tmp_path, **changes)
    return merge(schema.defaults(schema.load_schema("recipe")), found.character["recipe"])


def pictures(folder: Path, **captions: str | None) -> Path:
    """A folder with an image for each name, and a caption for those that have one."""
    folder.mkdir()
    for name, text in captions.items():
        Image.new("RGB", (64, 64), (len(name) * 40 % 256, 90, 10)).save(folder / f"{name}.png")
        if text is not None:
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder
