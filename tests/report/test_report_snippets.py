"""The report's Python is run as it stands: it draws the character, and switches between two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from charloom.core.layout import Results
from charloom.lora import export
from charloom.lora.attach import attach
from charloom.lora.network import Network
from charloom.report import snippets
from charloom.zimage import weights

BASE = Path(__file__).resolve().parents[2] / "resources/bases/paperdoll"
HOW = snippets.Drawing(source=str(BASE), steps=2, guidance=1.0, width=64, height=64, seed=42)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs of the miniature that draw differently."""
    folder = tmp_path_factory.mktemp("people")
    network = Network(type="lora", rank=4, alpha=4.0, modules="attention", dropout=0.0, lokr_factor=-1)
    adapter = attach(weights.load_transformer(BASE), network, seed=1)
    for number, name in enumerate(("leyla", "nika")):
        generator = torch.Generator().manual_seed(number)
        values = {
            key: torch.randn(p.shape, generator=generator) * 0.2 if "lora_B" in key else p
            for key, p in adapter.parameters.items()
        }
        header = export.metadata(network, title=name, trigger=name, step=1, provenance={})
        Results(folder / "results" / name).root.mkdir(parents=True)
        export.export(folder / f"results/{name}/final.safetensors", values, network, "bf16", header)
    return folder


def drawn(code: str) -> dict[str, np.ndarray]:
    exec(compile(code, "snippet", "exec"), {})
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in Path(".").glob("*.png")}


def test_both_snippets_run_and_draw_whom_they_name(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(people)
    one = drawn(snippets.character("leyla", "a medium shot photo of l3yla, smiling, city street", HOW))
    assert one["leyla.png"].shape == (64, 64, 3)
    two = drawn(snippets.two_characters("leyla", "l3yla", HOW))
    assert set(two) == {"leyla.png", "leyla-street.png", "nika-street.png"}
    # The same prompt, seed and LoRA: switching has left nothing of the other behind.
    assert np.abs(two["leyla-street.png"] - one["leyla.png"]).max() <= 1
    assert np.abs(two["nika-street.png"] - two["leyla-street.png"]).mean() > 1


def test_the_recommended_strength_is_used() -> None:
    assert 'set_adapters("leyla", 0.9)  # as recommended' in snippets.character("leyla", "l3yla", HOW, 0.9)
    assert 'set_adapters("leyla", 1.0)' in snippets.character("leyla", "l3yla", HOW)


def test_a_style_is_on_top_of_a_character_at_a_strength_of_its_own(
    people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(people)
    made = drawn(snippets.stacked("nika", "1nk", HOW))["leyla-nika.png"]
    alone = drawn(snippets.character("leyla", "a medium shot photo of l3yla, smiling, city street, 1nk", HOW))[
        "leyla.png"
    ]
    assert np.abs(made - alone).mean() > 1
    without = snippets.stacked("nika", "1nk", HOW).replace("[1.0, 0.8]", "[1.0, 0.0]")
    assert np.abs(drawn(without)["leyla-nika.png"] - alone).max() <= 1


def test_words_of_the_user_cannot_leave_their_string() -> None:
    code = snippets.character("leyla", 'x"); import os; ("', HOW)
    compile(code, "snippet", "exec")
    assert '"x\\"); import os; (\\""' in code
