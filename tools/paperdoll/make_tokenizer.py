"""Train the miniature's tokenizer on captions of the drawn world (CPU, seconds, deterministic)."""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import models  # noqa: E402

from charloom.paperdoll import attributes, language  # noqa: E402


def main(out: Path) -> None:
    rng = random.Random(5)
    people = ((attributes.random_identity(rng), attributes.random_scene(rng)) for _ in range(30_000))
    captions = [language.training_caption(identity, scene, rng) for identity, scene in people]
    models.train_tokenizer(captions).save_pretrained(out / "tokenizer")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
