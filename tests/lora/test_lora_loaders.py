"""What loaders make of files: the table against what was measured, and against the diffusers that is installed.

``MEASURED`` holds what became of ``lora_layouts.FILES`` in each version of a loader: its own code was run on small
weights, and the change of every weight compared with the one that was trained. Of diffusers that was the whole way
from the file to the adapted pipeline (with PEFT 0.21.2); of ComfyUI to 0.12.1 its map of keys, its loading and its
calculation of weights, without the rest of the program. The column of ComfyUI 0.33.0 and ``OTHERS`` come from an
earlier round on files of the same layouts.

    W  every module, with the trained effect      P  some modules, the others are left out
    N  no module, without an error                R  an error
    O  every module, with another effect          -  not run
"""

from __future__ import annotations

import lora_layouts
import pytest
import torch
from lora_helpers import outputs, ship
from lora_layouts import ALL, FILES, PLAIN
from tiny_models import build_transformer

from charloom.core.tensors import read_safetensors
from charloom.lora import convert, loaders
from charloom.lora.adapter import load_into
from charloom.lora.network import Network
from charloom.lora.verify import verify

LETTERS = {
    "W": loaders.WHOLE,
    "P": loaders.PART,
    "N": loaders.NOTHING,
    "R": loaders.REFUSED,
    "O": loaders.OTHERWISE,
}
DIFFUSERS = ("0.36.0", "0.37.0", "0.37.1", "0.38.0", "0.39.0", "0.40.0", "0.41.0", "0.42.0", "0.42.1")
COMFYUI = ("0.3.75", "0.3.76", "0.3.77", "0.4.0", "0.8.0", "0.8.2", "0.9.0", "0.12.1", "0.33.0")

# file | diffusers, in the order above | ComfyUI, in the order above; all run in 2026-11
MEASURED = """
ai-toolkit                                | WRRWWWWWW | PWWWWWWW-
ai-toolkit LoKr                           | RRRRRRRWW | PWWWWWWW-
musubi-tuner                              | RWWWWWWWW | PPPPPPPPP
musubi-tuner for ComfyUI                  | RRRRRRWWW | WWWWWWWWW
musubi-tuner converted                    | WRRWWWWWW | PWWWWWWW-
musubi-tuner LoKr                         | RRRRRRRRR | PPPPPPPP-
musubi-tuner LoHa                         | RRRRRRRRR | PPPPPPPP-
diffusers script                          | WWWWWWWWW | NNNWWWWWW
SimpleTuner                               | WWWWWWWWW | NNNOOOOOO
SimpleTuner for ComfyUI                   | OWWWWWWWW | NWWWWWWW-
SimpleTuner LyCORIS LoKr                  | RRRRRRRRR | NWWWWWWW-
LyCORIS LoRA                              | RRRRRRRRR | NWWWWWWW-
LyCORIS LoHa                              | RRRRRRRRR | NWWWWWWW-
OneTrainer                                | WWWWWWWWW | NNNWWWWWW
OneTrainer legacy                         | RRRRRRRRR | NNNWWWWW-
OneTrainer kohya                          | RPPPWWWWW | PPPPPPPP-
OneTrainer DoRA                           | OOOOOOOOO | NNNOOOOO-
transformer. A/B, alpha                   | RRRRRRRRR | NNNWWWWW-
transformer. down/up                      | RRRRRRRRR | NNNWWWWW-
DiffSynth                                 | WRRWWWWWW | NNNNNNWWW
DiffSynth, alpha 1                        | OWWWWWWWW | NNNNNNWW-
bare                                      | NNNNNNNNN | NNNNNNWW-
bare, alpha                               | WWWWWWWWW | NNNNNNWW-
bare, alpha 1                             | OWWWWWWWW | NNNNNNWW-
bare down/up, alpha 1                     | WWWWWWWWW | NNNNNNWW-
PEFT folder                               | NNNNNNNNN | NNNNNNNN-
charloom                                  | WWWWWWWWW | PWWWWWWWW
diffusion_model. A/B, alpha 1             | OWWWWWWWW | PWWWWWWW-
diffusion_model. A/B, alpha in the header | WRRWWWWWW | NOOOOOOO-
diffusion_model. default                  | WRRWWWWWW | PWWWWWWW-
diffusion_model. down/up                  | RRRWWWWWW | PWWWWWWW-
diffusion_model. down/up, alpha           | WWWWWWWWW | PWWWWWWW-
diffusion_model. down/up, alpha 1         | WWWWWWWWW | PWWWWWWW-
flat                                      | RRRWWWWWW | PPPPPPPP-
flat, attention alone                     | RWWWWWWWW | NNNNNNNN-
flat A/B, alpha                           | RRRRRRRRR | PPPPPPPP-
flat fused                                | RRRPPPWWW | WWWWWWWW-
lora_transformer_, alpha                  | RRRRRRRRR | NNNNNNNN-
native                                    | PRRPPPPPP | WWWWWWWWW
native, alpha                             | PRRRRRRRR | WWWWWWWW-
native down/up, alpha                     | PPPPPPPPP | WWWWWWWW-
native bare                               | NNNNNNNNN | NNNNNNPP-
LoHa                                      | RRRRRRRRR | PWWWWWWWW
LoHa transformer.                         | RRRRRRRRR | NNNWWWWW-
LoHa bare                                 | RRRRRRRRR | NNNNNNWW-
LoKr, no alpha                            | RRRRRRRWW | PWWWWWWW-
LoKr transformer.                         | RRRRRRRWW | NNNWWWWW-
LoKr transformer., alpha                  | RRRRRRRRR | NNNWWWWW-
LoKr bare                                 | RRRRRRRNN | NNNNNNWW-
LoKr bare, alpha                          | RRRRRRRWW | NNNNNNWW-
DoRA                                      | ORROOOOOO | POOOOOOO-
DoRA, alpha                               | OOOOOOOOO | POOOOOOOO
DoRA of PEFT                              | WWWWWWWWW | NNNOOOOO-
DoRA, magnitude                           | RRRRRRRRR | POOOOOOO-
full difference                           | RRRRRRRRR | PWWWWWWW-
full difference transformer.              | RRRRRRRRR | NNNWWWWW-
with a text encoder                       | RRRRRRRRR | PWWWWWWW-
transformer. with a text encoder          | WWWWWWWWW | NNNWWWWW-
with a key of nobody                      | RRRRRRRRR | PWWWWWWW-
transformer. with a key of nobody         | RRRRRRRRR | NNNWWWWW-
transformer. with an embedding            | RRRRRRRRR | NNNWWWWW-
"""
# of November 2026: SD.Next, stable-diffusion.cpp, ai-toolkit
OTHERS = {
    "charloom": {"SD.Next": "W", "stable-diffusion.cpp": "W", "ai-toolkit": "W"},
    "ai-toolkit LoKr": {"SD.Next": "W"},
}
TABLE = {
    name.strip(): {
        **dict(zip((("diffusers", version) for version in DIFFUSERS), diffusers.strip(), strict=True)),
        **dict(zip((("ComfyUI", version) for version in COMFYUI), comfyui.strip(), strict=True)),
    }
    for name, diffusers, comfyui in (line.split("|") for line in MEASURED.strip().splitlines())
}


def test_every_file_was_measured():
    assert set(TABLE) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_verify_says_what_was_measured_and_nothing_else(tmp_path, name):
    rows = verify(FILES[name]().write(tmp_path / "x.safetensors")).loaders
    said = {}
    for loader, versions in (("diffusers", DIFFUSERS), ("ComfyUI", COMFYUI)):
        spans = [(versions.index(r.first), versions.index(r.last), r.result) for r in rows if r.loader == loader]
        for place, version in enumerate(versions):
            results = {result for first, last, result in spans if first <= place <= last}
            assert len(results) < 2, f"{loader} {version}: {results}"
            said[loader, version] = next(iter(results), None)
    assert said == {place: LETTERS.get(letter) for place, letter in TABLE[name].items()}
    assert all(row.evidence.startswith(("run 20", "read ")) for row in rows)
    others = {row.loader: row.result for row in rows if row.loader not in ("diffusers", "ComfyUI")}
    for loader, letter in OTHERS.get(name, {}).items():
        assert others[loader] == LETTERS[letter]


def test_every_row_is_about_some_measured_file(tmp_path):
    """A row that no file reaches would be a claim without proof."""
    seen = set()
    for make in FILES.values():
        seen |= {(r.loader, r.first, r.last, r.layout, r.kind, r.needs) for r in _rows(tmp_path, make)}
    idle = [r for r in loaders.TABLE if (r.loader, r.first, r.last, r.layout, r.kind, r.needs) not in seen]
    assert not idle


def _rows(tmp_path, make):
    return verify(make().write(tmp_path / "x.safetensors")).loaders


@pytest.mark.parametrize("name", FILES)
def test_the_installed_diffusers_does_what_the_table_says(tmp_path, name):
    installed = _installed()
    if installed is None:
        pytest.skip("the diffusers that is installed was not measured")
    measured = _load(FILES[name](), tmp_path / "x.safetensors")
    assert LETTERS[measured] == LETTERS[TABLE[name]["diffusers", installed]]


def test_a_dora_with_the_names_of_peft_has_its_effect_in_diffusers(tmp_path):
    """What no other name of the magnitudes gives in any loader that was measured."""
    path = ship(tmp_path / "own", Network(type="dora", rank=4, alpha=4))
    renamed = {
        key.replace("diffusion_model.", "transformer.").replace("dora_scale", "lora_magnitude_vector"): tensor
        for key, tensor in read_safetensors(path)[0].items()
        if not key.endswith(".alpha")
    }
    renamed = {key: tensor.flatten() if "magnitude" in key else tensor for key, tensor in renamed.items()}
    own, stock = build_transformer(), _pipe()
    stock.load_lora_weights(str(lora_layouts.Foreign(renamed).write(tmp_path / "x.safetensors")))
    with load_into(own, path):
        torch.testing.assert_close(outputs(stock.transformer), outputs(own), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["musubi-tuner", "musubi-tuner for ComfyUI", "SimpleTuner", "OneTrainer DoRA"])
def test_a_converted_file_has_its_trained_effect_in_diffusers(name, tmp_path):
    made = lora_layouts.FILES[name]()
    source = made.write(tmp_path / "in.safetensors")
    for target in ("diffusers",) if "DoRA" in name else ("diffusers", "charloom"):
        out = convert.convert(source, target)
        converted = lora_layouts.Foreign(out.tensors, out.metadata, made.scale)
        assert _load(converted, tmp_path / f"{target}.safetensors") == "W", target


def _installed() -> str | None:
    import diffusers

    return diffusers.__version__ if diffusers.__version__ in DIFFUSERS else None


def _pipe():
    from diffusers import ZImagePipeline

    transformer = build_transformer().requires_grad_(False)
    return ZImagePipeline(scheduler=None, vae=None, text_encoder=None, tokenizer=None, transformer=transformer)


def _load(foreign, path) -> str:
    """Load a file into stock diffusers and compare what reached each weight."""
    pipe = _pipe()
    try:
        pipe.load_lora_weights(str(foreign.write(path)))
    except (ValueError, KeyError, IndexError) as error:
        assert str(error)
        return "R"
    adapted = PLAIN if any("qkv" in key for key in foreign.tensors) else ALL
    adapted = [
        m for m in adapted if any(m in key or m.replace(".", "_") in key or "qkv" in key for key in foreign.tensors)
    ]
    right = [_reached(pipe.transformer.get_submodule(module), module, foreign) for module in adapted]
    if False in right:
        return "O"
    return "N" if not any(right) else "W" if all(right) else "P"


def _reached(layer, module, foreign) -> bool | None:
    """Whether the change of a module is the trained one; None if there is none."""
    if not getattr(layer, "active_adapters", None):
        return None
    adapter = layer.active_adapters[0]
    wanted = lora_layouts.expected(module, foreign)
    same = float((layer.get_delta_weight(adapter) - wanted).norm() / wanted.norm()) < 1e-5
    magnitudes = [t for key, t in foreign.tensors.items() if module in key and ("dora" in key or "magnitude" in key)]
    if not magnitudes:
        return same
    loaded = getattr(layer, "lora_magnitude_vector", {})
    return same and adapter in loaded and torch.allclose(loaded[adapter].weight.flatten(), magnitudes[0].flatten())
