"""Build the miniature base of the paper-doll world. Resumable; meant for one GPU and a few runs of minutes.

    python scripts/paperdoll/build.py --work work/paperdoll --out resources/bases/paperdoll --seconds 560

Stages: draw the world and tokenise its captions (CPU, in the background), autoencoder, probe,
latents, text encoder + transformer, training adapter, evaluation. Each run goes on where the last one
stopped and leaves a loadable base behind. Seeds are fixed; the schedules follow the clock, so that the
weights depend on the speed of the machine. What was reached is written to ``measured.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import world  # noqa: E402

START = time.monotonic()
VARIANTS, LONGEST = 4, 96
UNSEEN = 2000
"""Drawn pictures kept apart to measure autoencoder and probe."""


def log(text: str) -> None:
    print(f"[{time.monotonic() - START:6.1f}s] {text}", flush=True)


def prepare_world(work: Path, tokenizer: Path, count: int, workers: int) -> None:
    """Runs in its own process, beside the first training stage."""
    counter = work / "drawn.txt"
    for done in world.render(work / "pictures.npy", 0, count, workers):
        if done % 1024 == 0 or done == count:
            counter.write_text(str(done), encoding="utf-8")
    np.savez(work / "labels.npz", **world.labels(0, count))
    np.save(work / "tokens.npy", world.tokens(tokenizer, 0, count, VARIANTS, LONGEST, workers))
    for _ in world.render(work / "unseen.npy", world.UNSEEN_SEED, min(UNSEEN, count), workers):
        pass
    (work / "world.done").write_text("done", encoding="utf-8")
    log(f"world: {count} pictures drawn and captioned")




def export(folder: Path, transformer, encoder, vae) -> None:
    """The diffusers folder: bf16 transformer, text encoder and autoencoder."""
    import models
    import torch

    fresh = {"transformer": models.transformer(), "text_encoder": models.text_encoder(), "vae": models.autoencoder()}
    fresh["vae"].register_to_config(
        scaling_factor=vae.config.scaling_factor, shift_factor=vae.config.shift_factor
    )
    for name, trained in (("transformer", transformer), ("text_encoder", encoder), ("vae", vae)):
        fresh[name].load_state_dict({key: value.cpu() for key, value in trained.state_dict().items()})
        fresh[name].to(torch.bfloat16).save_pretrained(folder / name)
    models.scheduler().save_pretrained(folder / "scheduler")
    models.write_model_index(folder)


def on_device(pictures: np.ndarray, device):
    """All pictures as one uint8 tensor on the device, copied piece by piece."""
    import torch

    out = torch.empty(pictures.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pictures), 2048):
        out[start : start + 2048] = torch.from_numpy(pictures[start : start + 2048].copy())
    return out


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="holds tokenizer/ already (make_tokenizer.py)")
    parser.add_argument("--seconds", type=float, default=560, help="stop this run after so many seconds")
    parser.add_argument("--count", type=int, default=110_000, help="pictures to draw")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--vae-seconds", type=float, default=190)
    parser.add_argument("--probe-seconds", type=float, default=100)
    parser.add_argument("--base-seconds", type=float, default=940)
    parser.add_argument("--adapter-seconds", type=float, default=45)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the batch size, for small machines")
    parser.add_argument("--prompts", type=int, default=500, help="unseen prompts in the evaluation")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--only-world", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    work, out = args.work, args.out
    work.mkdir(parents=True, exist_ok=True)
    if args.only_world:
        prepare_world(work, out / "tokenizer", args.count, args.workers)
        return
    drawing = None
    if not (work / "world.done").exists():
        drawing = subprocess.Popen([sys.executable, *sys.argv, "--only-world"])

    import evaluate
    import models
    import torch
    import train_adapter
    import train_base
    import train_probe
    import train_vae
    from clock import Budget
    from diffusers import AutoencoderKL
    from transformers import AutoTokenizer

    from charloom.paperdoll.probe import Probe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    measured_file = work / "measured.json"
    measured = json.loads(measured_file.read_text()) if measured_file.exists() else {}

    def remaining() -> float:
        return args.seconds - (time.monotonic() - START)

    # autoencoder
    if not (work / "vae").exists():
        while not (work / "drawn.txt").exists():
            if drawing is not None and drawing.poll() not in (None, 0):
                raise SystemExit("drawing the world failed")
            time.sleep(0.2)
        pictures = np.load(work / "pictures.npy", mmap_mode="r")
        vae = models.autoencoder()

        def ready() -> int:
            return int((work / "drawn.txt").read_text() or 1024)

        steps = train_vae.train(vae, pictures, ready, Budget(args.vae_seconds), device, log)
        log(f"vae: {steps} steps")
        measured["vae"] = {"steps": steps, "seconds": args.vae_seconds}
    else:
        vae = AutoencoderKL.from_pretrained(work / "vae").to(device, memory_format=torch.channels_last)
    vae.eval().requires_grad_(False)
    wait_for(work / "world.done")
    labels = dict(np.load(work / "labels.npz"))
    unseen = np.load(work / "unseen.npy")

    # latents and probe, which need the pictures
    latents_file, probe_file = work / "latents.pt", work / "probe.safetensors"
    if not (latents_file.exists() and probe_file.exists()):
        pictures = on_device(np.load(work / "pictures.npy", mmap_mode="r"), device)
        latents = {size: train_vae.encode_all(vae, pictures, size, device) for size, _, _ in train_base.RESOLUTIONS}
        train_vae.normalise(vae, latents[256])
        vae.save_pretrained(work / "vae")
        for table in latents.values():
            table.sub_(vae.config.shift_factor).mul_(vae.config.scaling_factor)
        torch.save(latents, latents_file)
        measured["vae"].update(train_vae.measure(vae, unseen[:256], device))
        measured["vae"]["config"] = {key: vae.config[key] for key in ("scaling_factor", "shift_factor")}
        log(f"latents ready; autoencoder PSNR on unseen pictures {measured['vae']['psnr']:.2f} dB")
        probe = Probe()
        steps = train_probe.train(probe, vae, pictures, labels, Budget(args.probe_seconds), device, log)
        probe.save(probe_file)
        measured["probe"] = {"steps": steps, "seconds": args.probe_seconds}
        del pictures
        measured_file.write_text(json.dumps(measured, indent=2), encoding="utf-8")
    else:
        latents = torch.load(latents_file, map_location=device, weights_only=True)
    probe = Probe.load(probe_file).to(device)
    truth = world.labels(world.UNSEEN_SEED, len(unseen))
    accuracy = train_probe.accuracy(probe, unseen, truth)
    measured["probe"]["accuracy"] = {key: round(value, 4) for key, value in accuracy.items()}
    log(f"probe on unseen drawn pictures: {measured['probe']['accuracy']}")

    # text encoder and transformer
    torch.manual_seed(1)
    trainer = train_base.Trainer(models.transformer(), models.text_encoder(), device)
    state_file = work / "base.pt"
    if state_file.exists():
        trainer.load(torch.load(state_file, map_location=device, weights_only=True))
    captions = train_base.Captions(np.load(work / "tokens.npy"), device)
    if not args.no_compile:
        trainer.compile()
    reserve = 60 if trainer.spent + remaining() - 60 < args.base_seconds else 75 + args.adapter_seconds
    budget = Budget(args.base_seconds, trainer.spent, stop_after=max(5.0, remaining() - reserve))
    log(f"base: from step {trainer.step}, {trainer.spent:.0f} of {args.base_seconds:.0f} s spent")
    trainer.run(latents, captions, budget, log, args.scale)
    torch.save(trainer.state(), state_file)
    measured["base"] = {"steps": trainer.step, "seconds": round(trainer.spent)}
    trainer.use_average()
    export(out, trainer.transformer, trainer.encoder, vae)
    probe.save(out / "probe.safetensors")
    log(f"base: {trainer.step} steps, exported")

    # evaluation
    torch.compiler.set_stance("force_eager")
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    parts = (tokenizer, trainer.encoder.eval(), trainer.transformer.eval(), vae)
    prompts, truth = evaluate.unseen(args.prompts)
    seeds = list(range(len(prompts)))
    images = evaluate.draw(*parts, prompts, seeds, 256)
    measured["base"]["obedience"] = {"256": evaluate.obedience(probe, images, prompts, truth)}
    evaluate.contact_sheet(images[:60], 10).save(out / "samples.png")
    for size in (192, 128):
        small = evaluate.draw(*parts, prompts[:200], seeds[:200], size)
        part = {key: value[:200] for key, value in truth.items()}
        measured["base"]["obedience"][str(size)] = evaluate.obedience(probe, small, prompts[:200], part)
    measured["base"]["alike under another trigger"] = evaluate.trigger_invariance(*parts, probe, min(100, args.prompts))
    measured["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    measured["versions"] = {"torch": torch.__version__}
    log(json.dumps(measured["base"], indent=None))
    measured_file.write_text(json.dumps(measured, indent=2), encoding="utf-8")
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")

    # training adapter, once the base is finished
    if trainer.spent >= args.base_seconds - 1 and not (out / "training_adapter.safetensors").exists():
        generator = torch.Generator(device).manual_seed(21)
        index, ids, mask = captions.batch(int(4096 * args.scale) or 8, 64, generator)
        chunks = []
        for start in range(0, len(ids), 512):
            part = slice(start, start + 512)
            chunks.append(evaluate.own_samples(trainer, ids[part], mask[part], generator))
        adapter_budget = Budget(min(args.adapter_seconds, max(5.0, remaining() - 8)))
        measured["adapter"] = train_adapter.train(
            trainer, torch.cat(chunks), ids, mask, adapter_budget, out / "training_adapter.safetensors", log
        )
        (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        log("adapter exported")


if __name__ == "__main__":
    main()
