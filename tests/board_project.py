"""A data set to work on: Mara with pictures of her own, and what a captioner says about them."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_project

CHARACTER = Path("config/characters/mara.yaml")
SAID = {
    "closeup-01": "A close-up portrait of a young woman with curly black hair, wearing a red scarf.",
    "medium-01": "The image shows a woman laughing in a kitchen, a silver watch on her wrist.",
}
"""What a captioner says, by shot."""


def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project in ``folder``, which becomes the current one: pictures of two shots of three, and an extra set."""
    monkeypatch.chdir(small_project.make(folder))
    for name in ("pics", "more"):
        Path(name).mkdir()
    for seed, name in enumerate(SAID):
        small_project.picture(Path(f"pics/{name}.png"), (140, 130), seed)
    small_project.picture(Path("more/One.png"), (140, 130), 7)
    Path("more/One.txt").write_text("m4ra <b>once</b> more\n")
    small_project.edit(
        CHARACTER,
        images={"source": "folder", "path": "pics", "count": 3},
        datasets=[{"name": "more", "path": "more"}],
        captions={"captioner": "owner/model"},
    )
    return folder
