"""Previews and latents with less memory than they need."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import json
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_project
import torch
from PIL import Image
from short_memory import failing
from tiny_models import CAPTION_WIDTH, build_transformer, lora_of
from torch import Tensor

from charloom.base import locks
from charloom.base.hub import silent
from charloom.config import schema
from charloom.config.project import load
from charloom.core.canonical import file_digest
from charloom.core.errors import Stopped, UserError
from charloom.core.store import Store
from charloom.core.tensors import write_safetensors
from charloom.engine import memory
from charloom.engine import previews as engine
from charloom.engine.options import EngineOptions
from charloom.workflow import latents, samples, slices, strengths, texts
from charloom.workflow.while_training import Reading, WhileTraining
from charloom.zimage import sampler, weights
from charloom.zimage.forward import forward, prepare

CPU = torch.device("cpu")
MINIATURE = small_project.ROOT / "resources/bases/paperdoll"
Z_IMAGE = small_project.ROOT / "tests/fixtures/z-image-turbo"


# The batch


@pytest.fixture(scope="module")
def ours():
    return prepare(build_transformer().eval().requires_grad_(False))


@pytest.fixture(scope="module")
def words() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(length, CAPTION_WIDTH, generator=generator) for length in (5, 40, 9, 7, 12, 33)]


def test_a_batch_that_does_not_fit_is_halved(ours, words, tiny_base) -> None:
    def predict(x: Tensor, t: Tensor, caps: Tensor, pad: Tensor) -> Tensor:
        return forward(ours, x, t, caps, pad)

    arguments = {"width": 64, "height": 64, "seeds": list(range(6)), "steps": 2}
    autoencoder = weights.load_vae(tiny_base)
    expected = sampler.sample(ours, autoencoder, words, **arguments)
    halved, tries = [], []
    tight = failing(predict, lambda x, *_: len(x) <= 1, tries)
    found = sampler.sample(ours, autoencoder, words, **arguments, predict=tight, on_halved=halved.append)
    assert np.abs(found.astype(int) - expected).max() <= 1
    # Four of one caption length: 4 and 2 fail, and the batch stays at 1 for the other length.
    assert halved == [2, 1] and tries.count(False) == 2 and tries.count(True) == 6 * 2


def test_a_single_picture_that_does_not_fit_is_an_error(ours, words, tiny_base) -> None:
    predict = failing(lambda: None, lambda *_: False, [])
    with pytest.raises(
        UserError, match="picture of 64x64 needs more GPU memory .* raise recipe.memory, set sample.precision"
    ):
        sampler.sample(ours, weights.load_vae(tiny_base), words, width=64, height=64, seeds=range(6), predict=predict)


def test_how_much_fits() -> None:
    for precision, gib in (("bf16", 13.5), ("float8", 8)):
        full = engine.empty_transformer(Z_IMAGE, precision).to(torch.bfloat16)
        assert engine.fits(full, int(gib * memory.GIB)) and not engine.fits(full, int((gib - 1) * memory.GIB))
    assert engine.room_for(2048, 1024) == 2 * engine.room_for(512, 512) == 2 * engine.ROOM


# Previews, from embeddings to files


@pytest.fixture
def previews(tmp_path, tiny_base) -> samples.Previews:
    lock = locks.lock({"name": "tiny", "path": str(tiny_base), "adapters": {}}, Store(tmp_path / "store"))
    generator = torch.Generator().manual_seed(5)
    for name, length in (("_empty", 8), ("_prompt-01", 9), ("_prompt-02", 11), ("_prompt-03", 40)):
        embeds = torch.randn(length, CAPTION_WIDTH, generator=generator)
        (tmp_path / "results/embeddings").mkdir(parents=True, exist_ok=True)
        write_safetensors(tmp_path / f"results/embeddings/{name}.safetensors", {"embeds": embeds}, {})
    return samples.Previews(tmp_path / "results", lock, Store(tmp_path / "store"))


def test_previews_with_little_memory_are_the_same_and_say_so(previews, tmp_path, monkeypatch) -> None:
    plan = {"width": 64, "height": 64, "scale": 1.0, "steps": 2, "guidance": 1.0, "recipe": 1}
    steps, lora = [2, 4], tmp_path / "results/checkpoints"
    lora.mkdir()
    for step in steps:
        write_safetensors(lora / f"step-{step:06d}.safetensors", lora_of(build_transformer(), step), {})
    prompts = {f"{n:02d}": {**plan, "seed": n} for n in (1, 2, 3)}
    wanted = previews.all({"steps": [0, *steps], "prompts": prompts})
    assert len(wanted) == 9

    def drawn(name: str) -> tuple[list[np.ndarray], list[str]]:
        store, lines = Store(tmp_path / name), []
        samples.make(previews, wanted, store, CPU, lines.append, EngineOptions())
        return [np.array(Image.open(store.path(samples.KIND, one.key, ".png"))).astype(int) for one in wanted], lines

    plain, said = drawn("plain")
    assert len(said) == 3
    monkeypatch.setattr(engine, "forward", failing(forward, lambda model, x, *_: len(x) == 1, tries := []))
    tight, said = drawn("tight")
    assert [line for line in said if "batches" in line] == [
        "out of GPU memory: drawing 64x64 in batches of 1 from now on"
    ]
    assert tries.count(False) == 1
    assert max(np.abs(a - b).max() for a, b in zip(plain, tight, strict=True)) <= 1


class Idle:
    """An engine that has nothing to give up, and whose blocks could not be compiled."""

    cuda, compiled, options = False, False, EngineOptions()

    def make_room(self, needed: int) -> None:
        assert needed > 0


def test_the_trainer_draws_what_the_rule_would_draw(previews, tmp_path) -> None:
    plan = {"width": 64, "height": 64, "scale": 1.0, "steps": 2, "guidance": 1.0, "recipe": 1}
    prompts = {f"{n:02d}": {**plan, "seed": n} for n in (1, 2, 3)}
    siblings = {"steps": [0, 2], "prompts": prompts}
    stores, lines = {name: Store(tmp_path / name) for name in ("trainer", "rule")}, []
    (tmp_path / "results/checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoint-in-the-store.safetensors"
    write_safetensors(checkpoint, lora_of(build_transformer(), 2), {})
    newest = tmp_path / "newest"
    draw = WhileTraining(previews, siblings, stores["trainer"], CPU, lines.append, newest)
    for step, path in ((0, None), (1, checkpoint), (2, checkpoint)):
        draw(step, path, Idle(), lambda: False)
    (tmp_path / "results/checkpoints/step-000002.safetensors").write_bytes(checkpoint.read_bytes())
    wanted = previews.all(siblings)
    samples.make(previews, wanted[::-1], stores["rule"], CPU, silent, EngineOptions())
    assert len(wanted) == 6 and len({one.key for one in wanted}) == 6
    files = [[stores[name].path(samples.KIND, one.key, ".png") for one in wanted] for name in stores]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))
    assert [(newest / f"{n:02d}.png").read_bytes() for n in (1, 2, 3)] == [path.read_bytes() for path in files[0][3:]]


def test_on_a_gpu_the_next_picture_is_drawn_while_one_is_packed(previews, monkeypatch) -> None:
    plan = {"width": 64, "height": 64, "scale": 1.0, "steps": 2, "guidance": 1.0, "recipe": 1}
    wanted = previews.all({"steps": [0], "prompts": {f"{n:02d}": {**plan, "seed": n} for n in (1, 2, 3)}})
    lines, store = [], previews.store
    painter = samples.Painter(previews.lock, store, CPU, lines.append, EngineOptions(), "bf16")
    painter.device = SimpleNamespace(type="cuda")  # on the CPU all three are a batch
    drawn, keep, second = [], painter.keep, threading.Event()

    def slow(one: samples.Wanted, picture: np.ndarray) -> None:
        assert one.prompt != "01" or second.wait(30), "the second picture waited for the first"
        keep(one, picture)

    def asked() -> bool:
        drawn.append(1)
        if len(drawn) > 2:
            second.set()
        return len(drawn) == 6  # in the middle of the third

    monkeypatch.setattr(painter, "keep", slow)
    with pytest.raises(Stopped):
        painter.draw(wanted, asked)
    assert [store.has(samples.KIND, one.key, ".png") for one in wanted] == [True, True, False]
    painter.draw(wanted)
    assert all(store.has(samples.KIND, one.key, ".png") for one in wanted)
    assert [line.partition(" in ")[0] for line in lines] == ["step 0: 1 preview of 64x64"]
    monkeypatch.setattr(painter, "keep", failing(keep, lambda *_: False, []))
    store.remove(store.path(samples.KIND, wanted[0].key, ".png"))
    with pytest.raises(torch.OutOfMemoryError):
        painter.draw(wanted)


@pytest.mark.parametrize(("seconds", "drawn"), [(5.0, True), (5.1, False)])
def test_a_short_sweep_of_the_likely_step_is_drawn_with_its_previews(
    previews, tmp_path, monkeypatch, seconds, drawn
) -> None:
    plan = {"width": 64, "height": 64, "scale": 1.0, "steps": 2, "guidance": 1.0, "recipe": 1, "seed": 1}
    sweep = {"step": 2, "strengths": [0.6, 0.8, 1.0], "prompts": {"01": plan, "02": {**plan, "scale": 0.8}}}
    siblings = {"steps": [1, 2], "prompts": {"01": plan, "02": plan}, "sweep": sweep}
    checkpoint, store, newest = tmp_path / "checkpoint.safetensors", Store(tmp_path / "trainer"), tmp_path / "newest"
    write_safetensors(checkpoint, lora_of(build_transformer(), 2), {})
    draw = WhileTraining(previews, siblings, store, CPU, silent, newest)
    draw(1, checkpoint, Idle(), lambda: False)
    monkeypatch.setattr(draw, "_each", seconds)
    draw(2, checkpoint, Idle(), lambda: False)
    wanted = strengths.all_wanted(previews, 2, sweep, checkpoint)
    assert len({one.key for one in wanted}) == 6
    there = [one for one in wanted if store.has(samples.KIND, one.key, ".png")]
    # Two of the six are the previews: four take 20 seconds.
    assert len(there) == (6 if drawn else 2)


def test_a_preview_that_fails_costs_no_training(previews, tmp_path) -> None:
    plan = {"width": 64, "height": 64, "scale": 1.0, "steps": 2, "guidance": 1.0, "recipe": 1, "seed": 1}
    broken, lines = tmp_path / "broken.safetensors", []
    broken.write_bytes(b"not a checkpoint")
    siblings, store = {"steps": [1, 2], "prompts": {"01": plan}}, Store(tmp_path / "trainer")
    draw = WhileTraining(previews, siblings, store, CPU, lines.append, tmp_path / "newest")
    draw(1, broken, Idle(), lambda: False)
    draw(2, broken, Idle(), lambda: False)
    assert len(lines) == 1 and "previews are drawn after training" in lines[0]


def test_previews_are_not_compiled_where_training_could_not_be(previews, tmp_path) -> None:
    draw = WhileTraining(previews, {"steps": [], "prompts": {}}, previews.store, CPU, silent, tmp_path / "newest")
    painter = draw._new_painter("bf16", Idle())
    assert painter.adapters.options == replace(Idle.options, compile=False) != Idle.options


def test_a_trainer_that_is_done_keeps_no_model(previews, tmp_path) -> None:
    draw = WhileTraining(previews, {"steps": [], "prompts": {}}, previews.store, CPU, silent, tmp_path / "newest")
    draw._painter = draw._new_painter("bf16", Idle())
    model = weakref.ref(draw._painter.model)
    draw.release()
    gc.collect()
    assert model() is None


def test_what_is_read_ahead_is_forgotten_by_whoever_asked_for_it() -> None:
    """Not in the thread: forgetting unpins memory, which waits for the GPU, on which steps are being recorded."""
    begun, forgotten = threading.Event(), []

    class Read:
        def __del__(self) -> None:
            forgotten.append(threading.current_thread())

    def read(wanted: Callable[[], bool]) -> Read:
        begun.set()
        while wanted():
            time.sleep(0.001)
        return Read()

    reading = Reading(read)
    begun.wait()
    reading.end()
    assert forgotten == [threading.current_thread()]
    assert Reading(lambda wanted: 7).result() == 7


def test_a_stop_leaves_the_picture_and_training_draws_nothing_more(previews, tmp_path) -> None:
    plan = {"width": 64, "height": 64, "scale": 1.0, "steps": 4, "guidance": 1.0, "recipe": 1, "seed": 1}
    siblings, store, lines = {"steps": [0, 2], "prompts": {"01": plan}}, Store(tmp_path / "trainer"), []
    checkpoint = tmp_path / "checkpoint.safetensors"
    write_safetensors(checkpoint, lora_of(build_transformer(), 2), {})
    draw = WhileTraining(previews, siblings, store, CPU, lines.append, tmp_path / "newest")
    looks = itertools.count()
    draw(0, None, Idle(), lambda: next(looks) == 3)
    assert next(looks) == 4, "asked at every step of the sampler, and no more after the answer"
    draw(2, checkpoint, Idle(), lambda: True)
    assert not list(store.root.glob("sample/**/*.png")) and lines == [
        "stopped while drawing; the other previews of step 0 come with the next run"
    ]
    draw(2, checkpoint, Idle(), lambda: False)
    assert len(list(store.root.glob("sample/**/*.png"))) == 1, "drawing is not off"


# What the recipe says


def test_the_recipe_speaks_of_every_option_and_has_its_defaults(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = small_project.make(tmp_path)
    config = project / "config/config.yaml"
    said = json.loads(slices.engine(load(project).characters["mara"]))
    assert said == asdict(EngineOptions()) and EngineOptions.from_values(said) == EngineOptions()
    recipe = {**small_project.CONFIG["recipe"], "memory": 11.5, "layer_offloading": True, "engine": {"graphs": False}}
    small_project.edit(config, recipe=recipe)
    options = EngineOptions.from_values(json.loads(slices.engine(load(project).characters["mara"])))
    assert (options.limit, options.layer_offloading, options.graphs, options.compile) == (11.5, True, False, True)
    for wrong in (0, -3, "much"):
        small_project.edit(config, recipe={**small_project.CONFIG["recipe"], "memory": wrong})
        with pytest.raises(UserError, match="recipe.memory"):
            load(project)
    assert schema.defaults(schema.load_schema("recipe"))["memory"] == "auto"


@pytest.fixture
def encode_text(previews, tmp_path, monkeypatch) -> Callable[..., tuple[Path, Path]]:
    """Runs the script ``encode_text`` in this process; returns what it wrote and its log."""
    spec = importlib.util.spec_from_file_location("encode_text", small_project.ROOT / "scripts/encode_text.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    lock = tmp_path / "lock.json"
    lock.write_text(json.dumps(previews.lock))
    monkeypatch.setattr(sys, "stderr", sys.stderr)

    def run(*more: str) -> tuple[Path, Path]:
        output, log = tmp_path / "results/embeddings/x.safetensors", tmp_path / "log.txt"
        settings = json.dumps({"quantization": "none", "recipe": 1})
        line = ["--lock", lock, "--settings", settings, "--output", output, "--log", log]
        line += ["--store", tmp_path / "other", "--device", "cpu", "--threads", "1", "--engine", '{"memory": 6}']
        monkeypatch.setattr(sys, "argv", ["encode_text.py", *map(str, line), *more])
        script.main()
        return output, log

    return run


def test_a_text_encoder_too_big_for_the_gpu_is_run_on_the_cpu(encode_text, monkeypatch) -> None:
    devices: list[torch.device] = []
    make = texts.make

    def once(*arguments: Any, **more: Any) -> int:
        devices.append(arguments[-1])
        if len(devices) == 1:
            raise torch.OutOfMemoryError("fake: out of memory")
        return make(*arguments, **more)

    monkeypatch.setattr(texts, "make", once)
    output, log = encode_text("--text", '"a woman"')
    assert output.is_file() and devices == [CPU, CPU]
    assert "does not fit into the GPU memory: encoding on the CPU" in log.read_text()


def test_captions_take_the_images_along(previews, encode_text, tmp_path) -> None:
    caption, settings = tmp_path / "results/dataset/x.txt", {"resolutions": [64], "flips": [], "recipe": 1}
    caption.parent.mkdir()
    caption.write_text("a woman\n")
    for name in ("x", "y"):
        small_project.picture(caption.with_name(f"{name}.png"), (64, 64), seed=len(name))
    caption.with_name("z.png").write_bytes(b"no picture")
    caption.with_name("gone.png").symlink_to(tmp_path / "nowhere.png")
    with Store(tmp_path / "other").lock("encode-latents-results"):
        encode_text("--file", str(caption), "--latents", json.dumps(settings))
    assert not list((tmp_path / "other").glob(f"{latents.KIND}/**/*.safetensors")), "somebody else is at it"
    caption.with_name("gone.png").unlink()
    (tmp_path / "results/embeddings/x.safetensors").unlink()
    shutil.rmtree(tmp_path / "other")
    encode_text("--file", str(caption), "--latents", json.dumps(settings))
    keys = [latents.key(file_digest(caption.with_name(f"{n}.png")), previews.lock, settings) for n in ("x", "y", "z")]
    there = [Store(tmp_path / "other").has(latents.KIND, key, ".safetensors") for key in keys]
    assert there == [True, True, False]


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float8_weights_draw_about_the_same(tiny_base) -> None:
    device = torch.device("cuda")
    plain, small = (
        engine.load_transformer(tiny_base, None, device, EngineOptions(), kind) for kind in ("bf16", "float8")
    )
    assert plain.dtype == torch.bfloat16 and small.layers[0].attention.to_q.weight.dtype == torch.float8_e4m3fn
    x, caps = torch.randn(1, 16, 8, 8, device=device), torch.randn(1, 32, CAPTION_WIDTH, device=device)
    t, pad = torch.full((1,), 0.5, device=device), torch.arange(32, device=device).view(1, 32, 1) >= 20
    with torch.no_grad():
        a, b = (
            engine.predict_for(m, EngineOptions(), device)(x, t, caps, pad).float().flatten() for m in (plain, small)
        )
    assert torch.cosine_similarity(a, b, dim=0) > 0.98


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_previews_with_and_without_compiled_blocks(previews, tmp_path) -> None:
    plan = {"width": 64, "height": 64, "scale": 1.0, "steps": 4, "guidance": 1.0, "recipe": 1}
    (tmp_path / "results/checkpoints").mkdir()
    for step in (2, 4):
        path = tmp_path / f"results/checkpoints/step-{step:06d}.safetensors"
        write_safetensors(path, lora_of(build_transformer(), step), {})
    prompts = {f"{n:02d}": {**plan, "seed": n} for n in (1, 2, 3)}
    wanted = previews.all({"steps": [0, 2, 4], "prompts": prompts})

    def drawn(name: str, compiled: bool) -> np.ndarray:
        store = Store(tmp_path / name)
        samples.make(previews, wanted, store, torch.device("cuda"), silent, EngineOptions(compile=compiled))
        return np.stack([np.array(Image.open(store.path(samples.KIND, one.key, ".png"))) for one in wanted]).astype(int)

    plain, fast = drawn("plain", False), drawn("fast", True)
    noise, change = np.abs(plain - fast).mean(), np.abs(plain[:3] - plain[3:6]).mean()
    assert noise < 2 < 4 < change, (noise, change)
