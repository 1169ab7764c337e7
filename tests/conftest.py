"""Fixtures shared by the tests: a tiny random base in the diffusers layout, and tiny data sets of random latents."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny_models import CAPTION_WIDTH, build_base

LONGEST = "test_leyla.py"
"""The file that takes as long as a character does."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where files are tested side by side, the longest comes first: nobody waits for it at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.name != LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny products are faster on one thread, and never disturbed by what else runs on the machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A diffusers folder with every part of Z-Image in the stock classes, tiny and random."""
    return build_base(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture
def make_dataset(tmp_path):
    """A factory of manifests with random latents and embeddings.

    ``make_dataset(captions=[5, 40], sizes=[(64, 64)], items=[{"repeats": 2}, {}])`` gives the path of a
    ``dataset.json`` with one item per caption length; ``items`` are merged into the entries.
    """
    import torch

    from charloom.core.canonical import file_digest
    from charloom.core.tensors import write_safetensors

    def make(
        captions=(5, 20, 40, 9), sizes=((32, 32), (48, 48)), items=(), flips=(), name="data", variants=True
    ) -> Path:
        folder = tmp_path / name
        for part in ("latents", "embeddings"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(7)

        def embedding(stem: str, length: int) -> dict[str, str]:
            path = folder / "embeddings" / f"{stem}.safetensors"
            write_safetensors(path, {"embeds": torch.randn(length, CAPTION_WIDTH, generator=generator)}, {})
            return {"embeddings": f"embeddings/{stem}.safetensors", "embeddings_sha256": file_digest(path)}

        entries = []
        for index, length in enumerate(captions):
            stem = f"shot-{index + 1:02d}"
            latents = {f"{w}x{h}": torch.randn(16, h // 8, w // 8, generator=generator) for w, h in sizes}
            for flip in flips:
                axes = {"x": -1, "y": -2}
                keys = [key for key in latents if "." not in key]
                latents |= {f"{k}.flip_{flip}": latents[k].flip([axes[a] for a in flip]) for k in keys}
            path = folder / "latents" / f"{stem}.safetensors"
            write_safetensors(path, latents, {})
            entry = {"name": stem, "latents": f"latents/{stem}.safetensors", "latents_sha256": file_digest(path)}
            entries.append(entry | embedding(stem, length) | (items[index] if index < len(items) else {}))
        extra = {k: embedding(f"_{k}", n) for k, n in (("empty", 8), ("trigger", 10))} if variants else {}
        for entry, length in zip(entries, captions, strict=True):
            if variants and not entry.get("is_reg"):
                entry |= {f"class_{k}": v for k, v in embedding(f"{entry['name']}.class", length + 1).items()}
        manifest = folder / "dataset.json"
        manifest.write_text(json.dumps({"items": entries, "variants": extra}))
        return manifest

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose every file was made by a pretender, with Snakemake's own records of it."""
    import small_project

    folder = small_project.add_code(small_project.make(tmp_path_factory.mktemp("workflow") / "project"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLOOM_PYTHON", str(small_project.pretender(folder)))
        made = small_project.snakemake(folder, "--cores", "2", small_project.TARGET)
    assert made.returncode == 0, made.stderr
    assert small_project.planned(folder) == {}
    return folder


@pytest.fixture
def mara(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The character of the small project, in whose folder the test runs."""
    import small_project

    from charloom.config.project import load

    monkeypatch.chdir(tmp_path)
    return load(small_project.make(tmp_path)).characters["mara"]


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium; skips the test where there is none."""
    import browser

    yield from browser.start()
