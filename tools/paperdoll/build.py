"""Build the miniature base of the paper-doll world on one GPU in about a quarter of an hour.

    python tools/paperdoll/build.py --work work/paperdoll --out resources/bases/paperdoll

Three processes share the machine: one draws and captions the world (CPU), one trains the autoencoder and
then the probe, one compiles the transformer's training step meanwhile and trains it as soon as the
autoencoder is there. A later run skips finished stages and resumes an
unfinished transformer from its last state, so the work folder can be reused from run to run; ``--start`` continues
from the weights of a finished base on another machine. Seeds are fixed;
schedules follow the clock, so the weights depend on the speed of the machine. The results are
written to ``measured.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import world  # noqa: E402

VARIANTS, LONGEST = 4, 96
UNSEEN = 2000
"""Drawn pictures kept apart to measure autoencoder and probe."""
PROBE_SHARE = 0.4
"""The probe learns from so much of the world, so that it's done when the transformer needs the GPU."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="holds tokenizer/ already (make_tokenizer.py)")
    parser.add_argument("--seconds", type=float, default=880, help="stop this run after so many seconds")
    parser.add_argument("--count", type=int, default=64_000, help="pictures to draw")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--vae-seconds", type=float, default=120)
    parser.add_argument("--start", type=Path, help="a finished base: its autoencoder is kept, the rest trains on")
    parser.add_argument("--probe-seconds", type=float, default=140, help="0 keeps the probe of --start")
    parser.add_argument("--base-seconds", type=float, default=600)
    parser.add_argument("--base-rate", type=float, default=1.2e-3, help="peak learning rate")
    parser.add_argument("--adapter-seconds", type=float, default=25)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the batch size, for small machines")
    parser.add_argument("--prompts", type=int, default=500, help="unseen prompts in the evaluation")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--role", choices=("all", "world", "base"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, default=time.time(), help=argparse.SUPPRESS)
    return parser.parse_args()


class Run:
    """The paths, the clock and the record that all processes share."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.work, self.out = args, args.work, args.out

    def log(self, text: str) -> None:
        print(f"[{time.time() - self.args.started:6.1f}s] {text}", flush=True)

    def remaining(self) -> float:
        return self.args.seconds - (time.time() - self.args.started)

    def measured(self) -> dict:
        """All that was measured so far, one file per stage."""
        out = {}
        for name in ("vae", "probe", "base", "adapter"):
            path = self.work / f"{name}.json"
            if path.exists():
                out[name] = json.loads(path.read_text(encoding="utf-8"))
        return out

    def record(self, name: str, values: dict) -> None:
        (self.work / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
        text = json.dumps(self.measured(), indent=2) + "\n"
        (self.out / "measured.json").write_text(text, encoding="utf-8")

    def wait_for(self, name: str) -> None:
        while not (self.work / name).exists():
            if self.remaining() < 0:
                raise SystemExit(f"gave up waiting for {name}")
            time.sleep(0.3)

    def done(self, name: str) -> None:
        (self.work / name).write_text("done", encoding="utf-8")


def device_settings():
    import torch

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare_world(run: Run) -> None:
    """Labels and the unseen pictures first, for the probe starts while the world is still being drawn."""
    args, work = run.args, run.work
    np.savez(work / "labels.npz", **world.all_labels(0, args.count, args.workers))
    np.save(work / "detail.npy", world.detail_maps(args.workers))
    for _ in world.render(work / "unseen.npy", world.UNSEEN_SEED, min(UNSEEN, args.count), args.workers):
        pass
    run.done("labels.done")
    run.log("world: labels and unseen pictures ready")
    for done in world.render(work / "pictures.npy", 0, args.count, args.workers):
        if done % 1024 == 0 or done == args.count:
            (work / "drawn.tmp").write_text(str(done), encoding="utf-8")
            (work / "drawn.tmp").replace(work / "drawn.txt")
    run.log(f"world: {args.count} pictures drawn")
    tokens = world.tokens(run.out / "tokenizer", 0, args.count, VARIANTS, LONGEST, args.workers)
    np.save(work / "tokens.npy", tokens)
    run.done("world.done")
    run.log("world: captions ready")


def load_vae(run: Run, device):
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(run.work / "vae").to(device, memory_format=torch.channels_last)
    return vae.eval().requires_grad_(False)


def build_eyes(run: Run) -> None:
    """Autoencoder, then probe."""
    import models
    import train_probe
    import train_vae
    from clock import Budget

    from charloom.paperdoll.probe import Probe

    args, work, device = run.args, run.work, device_settings()
    if args.start and not (work / "vae.done").exists():
        shutil.copytree(args.start / "vae", work / "vae", dirs_exist_ok=True)
        run.done("vae.done")
    if not (work / "vae.done").exists():
        run.wait_for("drawn.txt")
        pictures = np.load(work / "pictures.npy", mmap_mode="r")
        vae = models.autoencoder()
        steps = train_vae.train(
            vae, pictures, lambda: int((work / "drawn.txt").read_text()), Budget(args.vae_seconds), device, run.log
        )
        vae.eval().requires_grad_(False)
        drawn = int((work / "drawn.txt").read_text())
        sample = np.array(pictures[: min(drawn, 2048)])
        train_vae.normalise(vae, train_vae.encode_all(vae, sample, 256, device))
        vae.save_pretrained(work / "vae")
        run.done("vae.done")
        run.log(f"vae: {steps} steps, shift {vae.config.shift_factor}, scale {vae.config.scaling_factor}")
        run.record("vae", {"steps": steps, "seconds": args.vae_seconds})
    vae = load_vae(run, device)
    run.wait_for("labels.done")
    unseen = np.load(work / "unseen.npy")
    values = run.measured().get("vae", {})
    values.update(train_vae.measure(vae, unseen[:256], device))
    run.record("vae", values)
    run.log(f"vae: PSNR on unseen pictures {values['psnr']:.2f} dB")

    if args.start and not args.probe_seconds:
        shutil.copyfile(args.start / "probe.safetensors", work / "probe.safetensors")
    if not (work / "probe.safetensors").exists():
        run.wait_for("drawn.txt")
        while int((work / "drawn.txt").read_text()) < PROBE_SHARE * args.count:
            time.sleep(0.3)
        drawn = int((work / "drawn.txt").read_text())
        pictures = on_device(np.load(work / "pictures.npy", mmap_mode="r")[:drawn], device)
        run.log("probe: pictures on the device")
        probe = Probe.load(args.start / "probe.safetensors").requires_grad_(True) if args.start else Probe()
        labels = {key: values[:drawn] for key, values in np.load(work / "labels.npz").items()}
        steps = train_probe.train(probe, vae, pictures, labels, Budget(args.probe_seconds), device, run.log)
        probe.save(work / "probe.tmp")
        (work / "probe.tmp").replace(work / "probe.safetensors")
        probe = Probe.load(work / "probe.safetensors").to(device)
        truth = world.all_labels(world.UNSEEN_SEED, len(unseen), 4)
        accuracy = train_probe.accuracy(probe, unseen, truth)
        run.record("probe", {"steps": steps, "seconds": args.probe_seconds, "accuracy": accuracy})
        run.log(f"probe: {steps} steps, unseen drawn pictures {accuracy}")
        shutil.copyfile(work / "probe.safetensors", run.out / "probe.safetensors")


def on_device(pictures: np.ndarray, device):
    """All pictures as one uint8 tensor on the device, copied piece by piece."""
    import torch

    out = torch.empty(pictures.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pictures), 1024):
        out[start : start + 1024] = torch.from_numpy(pictures[start : start + 1024].copy())
    return out


def export(run: Run, trainer) -> None:
    """The diffusers folder: bf16 transformer, text encoder and autoencoder."""
    import models
    import torch
    from diffusers import AutoencoderKL

    fresh = {"transformer": models.transformer(), "text_encoder": models.text_encoder()}
    for name, trained in (("transformer", trainer.transformer), ("text_encoder", trainer.encoder)):
        fresh[name].load_state_dict({key: value.cpu() for key, value in trained.state_dict().items()})
    fresh["vae"] = AutoencoderKL.from_pretrained(run.work / "vae")
    for name, model in fresh.items():
        model.to(torch.bfloat16).save_pretrained(run.out / name)
    models.scheduler().save_pretrained(run.out / "scheduler")
    models.write_model_index(run.out)


def build_base(run: Run) -> None:
    """Text encoder and transformer, evaluation, training adapter."""
    import evaluate
    import models
    import torch
    import train_adapter
    import train_base
    from clock import Budget
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    from charloom.paperdoll.probe import Probe

    args, work, device = run.args, run.work, device_settings()
    torch.manual_seed(1)
    transformer, encoder = models.transformer(), models.text_encoder()
    if args.start:
        for model, name in ((transformer, "transformer/diffusion_pytorch_model"), (encoder, "text_encoder/model")):
            weights = load_file(args.start / f"{name}.safetensors")
            model.load_state_dict({key: value.float() for key, value in weights.items()})
    null = train_base.null_tokens(AutoTokenizer.from_pretrained(run.out / "tokenizer"), LONGEST)
    trainer = train_base.Trainer(transformer, encoder, device, null, rate=args.base_rate)
    trainer.transformer.train()
    if not args.no_compile:
        trainer.compile()
    if device.type == "cuda":
        try:
            trainer.capture(args.scale, run.log)
        except Exception as error:  # a slower step beats no base
            run.log(f"base: no CUDA graphs ({type(error).__name__}: {str(error)[:300]})")
            trainer.graphs = {}
    state_file = work / "base.pt"
    if state_file.exists():
        trainer.load(torch.load(state_file, map_location=device, weights_only=True))
    run.log("base: ready to train")
    run.wait_for("vae.done")
    vae = load_vae(run, device)
    run.wait_for("world.done")
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    latents = train_base.encode(vae, pictures, device)
    labels = dict(np.load(work / "labels.npz"))
    captions = train_base.Captions(np.load(work / "tokens.npy"), train_base.hard_cases(labels), device)
    weights = train_base.detail_weights(np.load(work / "detail.npy"), labels, device)
    end = 30 + args.adapter_seconds + 15
    seconds = min(args.base_seconds, trainer.spent + run.remaining() - end)
    run.log(f"base: from step {trainer.step}, {trainer.spent:.0f} of {seconds:.0f} s")
    for share in (0.55, 1.0):
        trainer.run(
            latents,
            weights,
            captions,
            Budget(seconds, trainer.spent, (seconds * share) - trainer.spent),
            run.log,
            args.scale,
        )
        torch.save(trainer.state(), state_file)
        with trainer.averaged():
            export(run, trainer)
        run.log(f"base: {trainer.step} steps, exported")
    result = {"steps": trainer.step, "seconds": round(trainer.spent), "captured": bool(trainer.graphs)}
    trainer.graphs = {}
    trainer.use_average()

    torch.compiler.set_stance("force_eager")
    tokenizer = AutoTokenizer.from_pretrained(run.out / "tokenizer")
    parts = (tokenizer, trainer.encoder.eval(), trainer.transformer.eval(), vae)
    prompts, truth = evaluate.unseen(args.prompts)
    seeds = list(range(len(prompts)))
    images = evaluate.draw(*parts, prompts, seeds, 256)
    evaluate.contact_sheet(images[:40], 10).save(run.out / "samples.png")
    if (work / "probe.safetensors").exists():
        probe = Probe.load(work / "probe.safetensors").to(device)
        result["obedience"] = {"256": evaluate.obedience(probe, images, prompts, truth)}
        run.record("base", result)
        run.log(json.dumps(result))
        result["alike under another trigger"] = evaluate.trigger_invariance(*parts, probe, min(100, args.prompts))
    result["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    result["torch"] = torch.__version__
    run.record("base", result)

    generator = torch.Generator(device).manual_seed(21)
    _, ids, mask = captions.batch(max(8, int(3072 * args.scale)), 64, generator)
    chunks = [
        evaluate.own_samples(trainer, ids[start : start + 512], mask[start : start + 512], generator)
        for start in range(0, len(ids), 512)
    ]
    budget = Budget(min(args.adapter_seconds, max(5.0, run.remaining() - 6)))
    path = run.out / "training_adapter.safetensors"
    run.record("adapter", train_adapter.train(trainer, torch.cat(chunks), ids, mask, budget, path, run.log))
    run.log("adapter exported")
    run.done("base.done")


def main() -> None:
    args = arguments()
    run = Run(args)
    run.work.mkdir(parents=True, exist_ok=True)
    if args.role == "world":
        prepare_world(run)
        return
    if args.role == "base":
        build_base(run)
        return
    child = [sys.executable, *sys.argv, "--started", str(args.started), "--role"]
    children = [subprocess.Popen([*child, "base"])]
    if not (run.work / "world.done").exists():
        children.append(subprocess.Popen([*child, "world"]))
    build_eyes(run)
    if any(process.wait() for process in children):
        raise SystemExit("a stage failed; see the log above")


if __name__ == "__main__":
    main()
