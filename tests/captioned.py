"""What a captioner would have said about pictures, put into the store as if it had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from charloom.config.project import load
from charloom.core.canonical import file_digest
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.workflow import caption_slices, describing


def say(texts: Mapping[str, str], character: str = "mara", pictures: str = "pics") -> None:
    """Store texts by shot, in the project that is the current folder; its pictures are PNGs of a folder."""
    made, store = Results(f"results/{character}"), Store("work/store")
    settings = json.loads(caption_slices.captioner(load().characters[character]))
    for name, text in texts.items():
        image = made.image(name)
        image.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(f"{pictures}/{name}.png", image)
        key = describing.key(file_digest(Path(image)), settings, describing.model_of(settings, store))
        with store.put(describing.KIND, key, ".json") as entry:
            entry.write_text(json.dumps({"text": text}))
