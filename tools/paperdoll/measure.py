"""Measure a finished miniature base, on any machine: what the model card claims, from the shipped files alone.

    python tools/paperdoll/measure.py resources/bases/paperdoll --prompts 500

Writes ``measured.json`` into the folder: autoencoder PSNR and probe accuracy on drawn pictures that no
stage has seen, obedience to unseen prompts (8 steps, guidance off), and the effect of changing the trigger.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import evaluate  # noqa: E402
import torch  # noqa: E402
import train_probe  # noqa: E402
import train_vae  # noqa: E402
import world  # noqa: E402

from charloom.paperdoll.draw import draw  # noqa: E402
from charloom.paperdoll.probe import Probe  # noqa: E402
from charloom.zimage import weights  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=2000, help="drawn pictures for the probe")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = args.folder / "measured.json"
    measured = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    parts = (
        *weights.load_text_encoder(args.folder, device=device),
        weights.load_transformer(args.folder, device=device),
        weights.load_vae(args.folder, device=device),
    )
    probe = Probe.load(args.folder / "probe.safetensors").to(device)

    people = (world.person(world.UNSEEN_SEED, index) for index in range(args.pictures))
    pictures = np.stack([np.asarray(draw(*person, world.SIZE, seed=i)) for i, person in enumerate(people)])
    accuracy = train_probe.accuracy(probe, pictures, world.labels(world.UNSEEN_SEED, len(pictures)))
    psnr = train_vae.measure(parts[-1], pictures[:256], device)["psnr"]

    prompts, truth = evaluate.unseen(args.prompts)
    seeds = list(range(len(prompts)))
    obedience = {}
    for size, count in ((256, len(prompts)), (192, len(prompts) // 4), (128, len(prompts) // 4)):
        images = evaluate.draw(*parts, prompts[:count], seeds[:count], size)
        if size == 256:
            evaluate.contact_sheet(images[:40], 8).save("work/paperdoll-samples.png")
        known = {key: values[:count] for key, values in truth.items()}
        obedience[str(size)] = {"prompts": count, **evaluate.obedience(probe, images, prompts[:count], known)}
    alike = evaluate.trigger_invariance(*parts, probe, min(60, args.prompts))
    measured["shipped"] = {
        "autoencoder psnr": round(psnr, 2),
        "probe accuracy": accuracy,
        "obedience": obedience,
        "alike under another trigger": alike,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {args.threads} threads",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    path.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measured["shipped"], indent=2))


if __name__ == "__main__":
    main()
