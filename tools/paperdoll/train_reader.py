"""Train the reader: the instrument that says what is true where the probe has decided (charloom/experiments/reader.py).

    python tools/paperdoll/train_reader.py --seconds 240 --workers 16 --output benchmarks/results/reader.safetensors

On a GPU if there is one. It draws a world of its own (no doll of the probe's), sees half of it through the
autoencoder with more noise on the latents than the probe did, and blurs, tints, shifts and patches the pictures.
Beside the weights it writes what was measured: accuracy on drawn pictures of a third world, as they are and through the
autoencoder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import world  # noqa: E402

from charloom.core import files  # noqa: E402
from charloom.core.canonical import file_digest  # noqa: E402
from charloom.experiments.reader import Reader  # noqa: E402
from charloom.paperdoll.attributes import IDENTITY_VALUES, TABLES  # noqa: E402
from charloom.zimage import weights  # noqa: E402

WORLD, UNSEEN = 550_007, 550_008
"""Seeds of the worlds that it learns from and is measured on; the probe's are 0 and 990001."""
BASE = Path(__file__).resolve().parents[2] / "resources/bases/paperdoll"
FINE = ("lips", "brows", "eye_size", "face_width", "skin", "expression", "outfit", "earrings", "necklace")
"""Attributes that are small or alike, and count double."""


def _drawn(job: tuple[int, int, int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    seed, start, stop = job
    people = (world.person(seed, index) for index in range(start, stop))
    pictures = [np.asarray(world.draw(*person, world.SIZE, seed=seed + i)) for i, person in enumerate(people, start)]
    return np.stack(pictures), world.labels(seed, stop - start, start)


def drawn(seed: int, count: int, workers: int, chunk: int = 100) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """``count`` pictures (N, 256, 256, 3) of the world ``seed`` and their labels."""
    jobs = [(seed, start, min(start + chunk, count)) for start in range(0, count, chunk)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        parts = pool.map(_drawn, jobs, chunksize=1)
    labels = {key: np.concatenate([part[1][key] for part in parts]) for key in parts[0][1]}
    return np.concatenate([part[0] for part in parts]), labels


@torch.no_grad()
def through_autoencoder(vae, pictures: Tensor, most: float, seed: int, batch: int = 64) -> Tensor:
    """``pictures`` (N, H, W, 3) uint8 encoded and decoded, with up to ``most`` standard deviations of noise between."""
    device = pictures.device
    generator = torch.Generator(device).manual_seed(seed)
    out = torch.empty_like(pictures)
    for start in range(0, len(pictures), batch):
        pixels = pictures[start : start + batch].permute(0, 3, 1, 2).float() / 127.5 - 1.0
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            latents = vae.encode(pixels).latent_dist.mode()
            strength = most * torch.rand(len(latents), 1, 1, 1, generator=generator, device=device)
            noise = torch.randn(latents.shape, generator=generator, device=device)
            decoded = vae.decode(latents + strength * latents.std() * noise, return_dict=False)[0].float()
        out[start : start + batch] = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return out


def blemished(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each blemish for a part of the batch (B, 3, H, W): soft or coarse, tinted, patched; a shift and zoom for all."""
    count, device = len(pixels), pixels.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    fifth = count // 5
    side = int(torch.randint(96, 224, (), generator=generator))
    small = F.interpolate(pixels[:fifth], (side, side), mode="bilinear", antialias=True, align_corners=False)
    pixels[:fifth] = F.interpolate(small, pixels.shape[-2:], mode="bicubic", align_corners=False)
    tint = 1 + 0.06 * (uniform(fifth, 3, 1, 1) - 0.5)
    pixels[fifth : 2 * fifth] = (pixels[fifth : 2 * fifth] + 1) * tint - 1 + 0.08 * (uniform(fifth, 1, 1, 1) - 0.5)
    top, left = (int(v) for v in torch.randint(0, 216, (2,), generator=generator))
    pixels[2 * fifth : 3 * fifth, :, top : top + 40, left : left + 40] = 2 * uniform(fifth, 3, 1, 1) - 1
    zoom = 1 + 0.08 * (uniform(count) - 0.5)
    shift = 0.08 * (uniform(count, 2) - 0.5)
    grid = torch.zeros(count, 2, 3, device=device)
    grid[:, 0, 0], grid[:, 1, 1], grid[:, :, 2] = zoom, zoom, shift
    where = F.affine_grid(grid, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, where, padding_mode="border", align_corners=False)
    return moved.clamp(-1, 1)


def loss_of(logits: list[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy over what can be seen; an identity attribute that is hidden should be left undecided."""
    total = logits[0].new_zeros(())
    for index, (key, row) in enumerate(zip(TABLES, logits, strict=True)):
        seen = labels[:, index] >= 0
        scores = F.log_softmax(row.float(), dim=1)
        right = -scores.gather(1, labels[:, index : index + 1].clamp(min=0))[:, 0]
        part = (right * seen).sum() / seen.sum().clamp(min=1)
        if key in IDENTITY_VALUES:
            part = part - 0.1 * (scores.mean(1) * ~seen).sum() / max(1, len(row))
        total = total + part * (2.0 if key in FINE else 1.0)
    return total / len(TABLES)


def accuracy(reader: Reader, pictures: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of pictures read right, by attribute, where it can be seen."""
    found = reader.read(pictures, batch_size=64)
    return {key: round(float((found[:, i] == labels[key])[labels[key] >= 0].mean()), 4) for i, key in enumerate(TABLES)}


def train(reader: Reader, pictures: Tensor, labels: Tensor, seconds: float, batch: int) -> int:
    """Train for ``seconds``; the rate falls with the time that is left. Returns the number of updates."""
    device = pictures.device
    generator = torch.Generator().manual_seed(11)
    reader.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3, weight_decay=0.02, betas=(0.9, 0.98))
    started, step = time.monotonic(), 0
    while (spent := (time.monotonic() - started) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 200) * min(1.0, 2.0 * (1.001 - spent))
        index = torch.randint(len(pictures), (batch,), generator=generator).to(device)
        pixels = blemished(pictures[index].permute(0, 3, 1, 2).float() / 127.5 - 1.0, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = reader(pixels.contiguous(memory_format=torch.channels_last))
        loss = loss_of(logits, labels[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.4f}, {spent:.0%} of the time", flush=True)
        step += 1
    reader.eval()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/reader.safetensors"))
    parser.add_argument("--seconds", type=float, default=240, help="of training, after the drawing (240)")
    parser.add_argument("--count", type=int, default=48_000, help="pictures to draw (48000)")
    parser.add_argument("--unseen", type=int, default=2000, help="pictures to measure on (2000)")
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--workers", type=int, default=16, help="processes that draw (16)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (auto)")
    arguments = parser.parse_args()
    torch.manual_seed(2)
    # Both before a GPU is in use: processes are forked.
    fresh, fresh_labels = drawn(UNSEEN, arguments.unseen, arguments.workers)
    images, labels = drawn(WORLD, arguments.count, arguments.workers)
    print(f"{len(images)} pictures drawn", flush=True)
    name = arguments.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    vae = weights.load_vae(BASE).to(device)
    pictures = torch.from_numpy(images).to(device)
    half = len(pictures) // 2
    pictures[:half] = through_autoencoder(vae, pictures[:half], 0.4, seed=5)
    print("half of them seen through the autoencoder", flush=True)
    reader = Reader()
    truth = torch.from_numpy(np.stack([labels[key] for key in TABLES], axis=1).astype(np.int64)).to(device)
    steps = train(reader, pictures, truth, arguments.seconds, arguments.batch)
    with files.whole(arguments.output) as temporary:
        reader.save(temporary)
    reader = Reader.load(arguments.output).to(device)
    seen = through_autoencoder(vae, torch.from_numpy(fresh).to(device), 0.0, seed=6).cpu().numpy()
    measured = {
        "steps": steps,
        "batch": arguments.batch,
        "seconds": arguments.seconds,
        "pictures": arguments.count,
        "unseen": arguments.unseen,
        "accuracy": accuracy(reader, fresh, fresh_labels),
        "accuracy through the autoencoder": accuracy(reader, seen, fresh_labels),
        "sha256": file_digest(arguments.output),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    files.write_json(arguments.output.with_suffix(".json"), measured)
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
