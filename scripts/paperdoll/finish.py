"""Go over what a finished miniature base learned last, on a machine without a GPU: expressions seen from near.

    python scripts/paperdoll/finish.py --work work/finish --start resources/bases/paperdoll --out work/finish/base

Draws pictures in which the expressions that are misread most are frequent, and trains text encoder and
transformer on with a small learning rate, by default for an hour. Autoencoder, probe and training adapter stay.
A run that is stopped goes on from its last state.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import models  # noqa: E402
import torch  # noqa: E402
import train_base  # noqa: E402
import train_vae  # noqa: E402
import world  # noqa: E402
from clock import Budget  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from charloom.paperdoll import attributes  # noqa: E402
from charloom.zimage import base, text  # noqa: E402

SEED = 0
FIRST = 1_000_000
"""Index of the first picture; the runs on a GPU took those from 0 on."""
VARIANTS, LONGEST = 4, 96
SHARES = {"skeptical": 1.0, "contemplative": 0.5, "serious": 0.5, "neutral": 0.5}
"""Share of the world's pictures of an expression seen from near that is taken,"""
OTHER, FAR = 0.2, 0.1
"""of other expressions, and of pictures without a face to read."""
SIZES = ((256, 0.82, 1.0), (192, 0.1, 1.5), (128, 0.08, 2.5))
"""(resolution, share of updates, batch as a multiple of ``--batch``)."""
SAVE_SECONDS = 300
CPU = torch.device("cpu")


def chosen(count: int) -> list[int]:
    """Indices of ``count`` pictures, the hard ones far more often than the world has them."""
    rng = random.Random("finish")
    out: list[int] = []
    index = FIRST
    while len(out) < count:
        scene = world.person(SEED, index)[1]
        near = scene.tier != "full-body" and scene.view != "back"
        if rng.random() < (SHARES.get(scene.expression, OTHER) if near else FAR):
            out.append(index)
        index += 1
    return out


def picture(index: int) -> np.ndarray:
    return np.asarray(world.draw(*world.person(SEED, index), world.SIZE, seed=index))


def prepare(args: argparse.Namespace, log) -> None:
    """Latents at every resolution, token ids and labels of the chosen pictures, as files in the work folder."""
    indices = chosen(args.count)
    with multiprocessing.get_context("fork").Pool() as pool:
        pictures = np.stack(pool.map(picture, indices, chunksize=16))
    log(f"{args.count} pictures drawn")
    vae = base.load_vae(args.start).to(memory_format=torch.channels_last)
    latents = {}
    for size, share, _ in SIZES:
        part = pictures if share > 0.5 else pictures[: args.count // 4]
        raw = train_vae.encode_all(vae, part, size, CPU, 16)
        latents[size] = ((raw - vae.config.shift_factor) * vae.config.scaling_factor).to(torch.bfloat16)
        log(f"{len(part)} pictures encoded at {size}")
    tokenizer = AutoTokenizer.from_pretrained(args.start / "tokenizer")
    tokens = np.zeros((args.count, VARIANTS, LONGEST + 1), dtype=np.int16)
    for row, index in zip(tokens, indices, strict=True):
        for variant in range(VARIANTS):
            ids = text.token_ids(tokenizer, world.caption(SEED, index, variant))[:LONGEST]
            row[variant, 0], row[variant, 1 : 1 + len(ids)] = len(ids), ids
    people = [world.person(SEED, index)[1] for index in indices]
    labels = {
        key: np.array([values.index(getattr(scene, key)) for scene in people])
        for key, values in (("tier", attributes.TIER), ("view", attributes.VIEW))
    }
    torch.save({"latents": latents, "tokens": tokens, "labels": labels, "detail": world.detail_maps(2)}, args.data)


def export(args: argparse.Namespace, trainer: train_base.Trainer) -> None:
    """The folder to start from with the average of the weights in it."""
    shutil.copytree(args.start, args.out, dirs_exist_ok=True)
    fresh = {"transformer": models.transformer(), "text_encoder": models.text_encoder()}
    with trainer.averaged():
        for name, trained in (("transformer", trainer.transformer), ("text_encoder", trainer.encoder)):
            fresh[name].load_state_dict(trained.state_dict())
            fresh[name].to(torch.bfloat16).save_pretrained(args.out / name)


def train(args: argparse.Namespace, log) -> None:
    data = torch.load(args.data, weights_only=False)
    torch.manual_seed(3)
    parts = {"transformer/diffusion_pytorch_model": models.transformer(), "text_encoder/model": models.text_encoder()}
    for name, model in parts.items():
        weights = load_file(args.start / f"{name}.safetensors")
        model.load_state_dict({key: value.float() for key, value in weights.items()})
    null = train_base.null_tokens(AutoTokenizer.from_pretrained(args.start / "tokenizer"), LONGEST)
    trainer = train_base.Trainer(*parts.values(), CPU, null, seed=17, rate=args.rate)
    state = args.work / "state.pt"
    if state.exists():
        trainer.load(torch.load(state, weights_only=True))
        torch.manual_seed(trainer.step)
    trainer.transformer.train()
    trainer.guidance.fill_(train_base.GUIDANCE)
    weights = train_base.detail_weights(data["detail"], data["labels"], CPU)
    captions = {}
    for size, _, _ in SIZES:
        count = len(data["latents"][size])
        captions[size] = train_base.Captions(data["tokens"][:count], np.ones(count, dtype=int), CPU)
    budget, saved, losses = Budget(60 * args.minutes, trainer.spent), time.monotonic(), []
    while not budget.over:
        for group in trainer.optimizer.param_groups:
            group["lr"] = budget.rate(trainer.peak, trainer.step, warmup=100)
        if not trainer.averaging and budget.progress > 0.4:
            torch._foreach_copy_(trainer.average, [p.detach() for p in trainer.parameters])
            trainer.averaging = True
        size, _, factor = SIZES[trainer.choice.choice(len(SIZES), p=[share for _, share, _ in SIZES])]
        lengths = train_base.SHAPES[size]
        odds = captions[size].shares[: len(lengths)]
        length = int(trainer.choice.choice(lengths, p=odds / odds.sum()))
        index, ids, mask = captions[size].batch(int(args.batch * factor), length, trainer.generator)
        losses.append(trainer.update(data["latents"][size][index].float(), weights(index, size), ids, mask).item())
        trainer.step += 1
        trainer.spent = budget.spent
        if len(losses) == 100:
            log(f"step {trainer.step}, {budget.spent:.0f} s, loss {np.mean(losses):.4f}")
            losses.clear()
        if time.monotonic() - saved > SAVE_SECONDS or budget.over:
            torch.save(trainer.state(), state)
            saved = time.monotonic()
    export(args, trainer)
    log(f"{trainer.step} updates in {trainer.spent:.0f} s, written to {args.out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True, help="the finished base")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60, help="of updates")
    parser.add_argument("--count", type=int, default=8000, help="pictures to draw")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.5e-4, help="peak learning rate")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.data = args.work / "data.pt"
    started = time.monotonic()

    def log(line: str) -> None:
        print(f"[{time.monotonic() - started:6.0f}s] {line}", flush=True)

    if not args.data.exists():
        prepare(args, log)
    train(args, log)


if __name__ == "__main__":
    main()
