"""On one card a preview has the same bytes whoever draws it: the trainer on its way, or a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from engine_control import compilers_work  # noqa: F401 (a fixture for every test)
from test_engine_gpu import engine_of, inputs
from tiny_models import CAPTION_WIDTH, build_transformer, lora_of

from charloom.base import locks
from charloom.core.store import Store
from charloom.core.tensors import write_safetensors
from charloom.engine import previews as engine
from charloom.engine.options import EngineOptions
from charloom.lora.attach import attach
from charloom.lora.network import Network
from charloom.workflow import samples
from charloom.workflow.while_training import WhileTraining

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

DEVICE = "cuda"
PLAN = {"width": 256, "height": 192, "scale": 1.0, "steps": 4, "guidance": 1.0, "recipe": 1, "precision": "float8"}
PROMPTS = {f"{n:02d}": {**PLAN, "seed": n} for n in (1, 2)}


def of(folder: Path, base: Path, who: str) -> samples.Previews:
    """The previews that both draw, into the store of ``who``; embeddings and the checkpoint lie in ``folder``."""
    os.environ["CHARLOOM_STORE"] = str(folder / who)  # and compiled code beside it: nothing is shared
    lock = locks.lock({"name": "tiny", "path": str(base), "adapters": {}}, Store(folder / who))
    return samples.Previews(folder / "results", lock, Store(folder / who))


def by_trainer(folder: Path, base: Path, steps: list[int]) -> None:
    previews, device, options = of(folder, base, "trainer"), torch.device(DEVICE), EngineOptions()
    draw = WhileTraining(
        previews, {"steps": steps, "prompts": PROMPTS}, previews.store, device, print, folder / "newest"
    )
    model = engine.load_transformer(base, None, device, options, "float8")
    adapter = attach(model.train(), Network(rank=8, alpha=8), 1)
    trained = engine_of(model, adapter, options)
    draw(0, None, trained, lambda: False)
    for size, length in ((16, 64), (12, 32)):
        trained.zero_grad()
        trained.accumulate(inputs(size, length))
    draw(2, previews.files.checkpoint(2), trained, lambda: False)


def by_rule(folder: Path, base: Path, steps: list[int]) -> None:
    previews = of(folder, base, "rule")
    wanted = previews.all({"steps": steps, "prompts": PROMPTS})
    samples.make(previews, wanted, previews.store, torch.device(DEVICE), print, EngineOptions())


@pytest.mark.parametrize("steps", [[0, 2], [2]], ids=["with the base alone", "the checkpoint"])
def test_a_preview_has_the_same_bytes_whoever_draws_it(tiny_base: Path, tmp_path: Path, steps: list[int]) -> None:
    (tmp_path / "results/embeddings").mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    for name, length in (("_empty", 8), ("_prompt-01", 9), ("_prompt-02", 40)):
        embeds = torch.randn(length, CAPTION_WIDTH, generator=generator)
        write_safetensors(tmp_path / f"results/embeddings/{name}.safetensors", {"embeds": embeds}, {})
    (tmp_path / "results/checkpoints").mkdir()
    checkpoint = tmp_path / "results/checkpoints/step-000002.safetensors"
    write_safetensors(checkpoint, lora_of(build_transformer(), 2), {})
    spawn = multiprocessing.get_context("spawn")
    # The trainer draws the base first; whoever draws the checkpoint alone must come to the same bytes.
    for target, which in ((by_trainer, [0, 2]), (by_rule, steps)):
        process = spawn.Process(target=target, args=(tmp_path, tiny_base, which))
        process.start()
        process.join()
        assert process.exitcode == 0
    wanted = of(tmp_path, tiny_base, "rule").all({"steps": steps, "prompts": PROMPTS})
    assert len(wanted) == 2 * len(steps)
    for one in wanted:
        first, second = (Store(tmp_path / who).path(samples.KIND, one.key, ".png") for who in ("trainer", "rule"))
        assert first.read_bytes() == second.read_bytes(), f"step {one.step}, prompt {one.prompt}"
