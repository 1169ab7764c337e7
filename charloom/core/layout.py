"""Where the files of a run are, below ``results/<character>/`` and ``work/``; rules and library ask here.

Opens nothing. Roots and names may contain the wildcards of a rule:
``Results("results/{character}").checkpoint("{step}")`` is the pattern that a rule makes. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


def step_name(step: int | str) -> str:
    """A checkpoint's name in paths: ``step-000250``; a string (a wildcard or its value) is used as it is."""
    return f"step-{step if isinstance(step, str) else f'{step:06d}'}"


def step_of(path: str | Path) -> int:
    """The step in the name of a file or folder, as :func:`step_name` writes it."""
    return int(Path(path).stem.removeprefix("step-"))


def _of_steps(paths: Iterable[Path]) -> list[Path]:
    """Those that are named after a step, sorted; without copies made by hand, such as ``step-000100 (copy)``."""
    return sorted(path for path in paths if re.fullmatch(step_name("[0-9]+"), path.stem))


def strength_name(strength: float) -> str:
    """How a strength is written in paths: ``0.70``."""
    return f"{strength:.2f}"


@dataclass(frozen=True)
class _Folder:
    root: Path

    def __init__(self, root: str | Path) -> None:
        object.__setattr__(self, "root", Path(root))

    def log(self, rule: str, item: str = "") -> str:
        """Log of a job, with forward slashes; ``item`` tells the jobs of a rule apart.

        A string, because Snakemake writes the path of a log into commands as it is, and
        :func:`charloom.cli.planning.groups` finds the rule in it.
        """
        return self._of_job("logs", rule, item, ".log")

    @property
    def benchmarks(self) -> Path:
        """The folder of Snakemake's measurements."""
        return self.root / "benchmarks"

    def benchmark(self, rule: str, item: str = "") -> str:
        """Snakemake's measurements of a job, with forward slashes."""
        return self._of_job("benchmarks", rule, item, ".tsv")

    def _of_job(self, folder: str, rule: str, item: str, suffix: str) -> str:
        name = f"{rule}/{item}" if item else rule
        return (self.root / folder / f"{name}{suffix}").as_posix()


WHOLE_MASK = "png"
"""Name of the tensor with a whole mask, the bytes of a PNG at the size of its picture, which bundles include."""


class Results(_Folder):
    """The files of one character; ``root`` is ``results/<character>``. Images are named ``<shot>`` or
    ``<data set>/<image>``, prompts ``01``, ``02``, …"""

    @property
    def prompt_page(self) -> Path:
        """The prompt sheet as a page."""
        return self.root / "prompts.html"

    @property
    def prompt_text(self) -> Path:
        """The prompt sheet as plain text."""
        return self.root / "prompts.txt"

    @property
    def reference(self) -> Path:
        """The neutral image of the character."""
        return self.root / "reference.png"

    def source(self, image: str) -> Path:
        """An image before its watermark is cropped."""
        return self.root / "source" / f"{image}.png"

    def source_record(self, image: str) -> Path:
        """How a generated image came about."""
        return self.root / "source" / f"{image}.json"

    @property
    def dataset(self) -> Path:
        """The folder of all images and captions that are trained on."""
        return self.root / "dataset"

    def image(self, name: str) -> Path:
        """An image that is trained on."""
        return self.dataset / f"{name}.png"

    def caption(self, name: str) -> Path:
        """The caption of an image."""
        return self.dataset / f"{name}.txt"

    @property
    def lint(self) -> Path:
        """What the check of the data set found."""
        return self.root / "lint.json"

    @property
    def lint_page(self) -> Path:
        """The same as a page with pictures, which ``charloom lint --html`` writes."""
        return self.root / "lint.html"

    def raw_caption(self, name: str) -> Path:
        """What the captioner says about an image, in its own words."""
        return self.root / "captions" / f"{name}.json"

    @property
    def proposals(self) -> Path:
        """The captions that are made from that, beside those that are used."""
        return self.root / "captions.json"

    def mask(self, name: str) -> Path:
        """Where the person is on an image, at the sizes of its latents."""
        return self.root / "masks" / f"{name}.safetensors"

    @property
    def manifest(self) -> Path:
        """The manifest of the data set."""
        return self.root / "dataset.json"

    def latents(self, name: str) -> Path:
        """The latents of an image."""
        return self.root / "latents" / f"{name}.safetensors"

    def embedding(self, name: str) -> Path:
        """The embedding of a caption (by the name of its image) or of a text (``_empty``, ``_prompt-01``)."""
        return self.root / "embeddings" / f"{name}.safetensors"

    def class_embedding(self, name: str) -> Path:
        """The embedding of a caption with the class word in place of the trigger."""
        return self.embedding(f"{name}.class")

    def prompt_embedding(self, prompt: str) -> Path:
        """The embedding of a sample prompt."""
        return self.embedding(f"_prompt-{prompt}")

    def negative_embedding(self, prompt: str | None) -> Path:
        """The embedding for the unconditional pass of guidance: of the negative prompt, or of the empty one."""
        return self.embedding("_negative" if prompt else "_empty")

    @property
    def training(self) -> Path:
        """The folder of the trainer's own records."""
        return self.root / "training"

    @property
    def newest_previews(self) -> Path:
        """The folder with the newest checkpoint's previews, while training runs."""
        return self.training / "newest"

    @property
    def metrics(self) -> Path:
        """One line for each step of training."""
        return self.training / "metrics.jsonl"

    def checkpoint(self, step: int | str) -> Path:
        """The LoRA after ``step`` steps."""
        return self.root / "checkpoints" / f"{step_name(step)}.safetensors"

    def checkpoints(self) -> list[Path]:
        """The checkpoints that exist, in ascending order."""
        return _of_steps((self.root / "checkpoints").glob(f"{step_name('*')}.safetensors"))

    def samples(self, step: int | str) -> Path:
        """The folder with the previews of a checkpoint."""
        return self.root / "samples" / step_name(step)

    def sample(self, step: int | str, prompt: str) -> Path:
        """What a checkpoint draws for a prompt."""
        return self.samples(step) / f"{prompt}.png"

    def sampled_steps(self) -> Iterator[int]:
        """The steps that have a folder of previews, in ascending order."""
        return map(step_of, _of_steps((self.root / "samples").glob(step_name("*"))))

    def grid(self, step: int | str) -> Path:
        """All previews of a checkpoint on one picture."""
        return self.samples(step) / "grid.png"

    def scores(self, step: int | str) -> Path:
        """The scores of a checkpoint."""
        return self.root / "scores" / f"{step_name(step)}.json"

    @property
    def judge(self) -> Path:
        """Which instruments judge this character, and why."""
        return self.root / "judge.json"

    def drift_sample(self, step: int | str, name: str) -> Path:
        """What a checkpoint draws for a prompt without its trigger (``01-class``) or at many steps (``01-steps``)."""
        return self.root / "drift" / step_name(step) / f"{name}.png"

    def drift(self, step: int | str) -> Path:
        """What these previews say about a checkpoint."""
        return self.root / "drift" / f"{step_name(step)}.json"

    @property
    def score_table(self) -> Path:
        """The scores of all checkpoints."""
        return self.root / "scores.csv"

    @property
    def validation(self) -> Path:
        """Which checkpoint is shipped, and why."""
        return self.root / "validation.json"

    @property
    def verification(self) -> Path:
        """Whether that checkpoint is intact, and what can load it."""
        return self.root / "verification.json"

    @property
    def report(self) -> Path:
        """The page about the character."""
        return self.root / "report.html"

    @property
    def comparison(self) -> Path:
        """All checkpoints side by side."""
        return self.root / "comparison.png"

    def plot(self, name: str) -> Path:
        """A chart of the page as a picture of its own: ``scores``, ``loss``."""
        return self.root / "plots" / f"{name}.png"

    def strength(self, strength: float | str, prompt: str) -> Path:
        """What the chosen checkpoint draws for a prompt at a strength; a string (a wildcard or its value) as it is."""
        name = strength if isinstance(strength, str) else strength_name(strength)
        return self.root / "strengths" / f"{name}-{prompt}.png"

    @property
    def strengths(self) -> Path:
        """The chosen checkpoint at several strengths, and the recommended one."""
        return self.root / "strengths.json"

    @property
    def strength_strip(self) -> Path:
        """The same as one picture."""
        return self.root / "strengths.png"

    @property
    def versus(self) -> Path:
        """The page that compares the character with what was finished before."""
        return self.root / "compare.html"

    @property
    def progress(self) -> Path:
        """How far training is, rewritten while it runs."""
        return self.training / "progress.json"

    @property
    def final(self) -> Path:
        """The LoRA to ship."""
        return self.root / "final.safetensors"

    @property
    def gallery(self) -> Path:
        """The page of the scenes that the LoRA draws."""
        return self.root / "gallery" / "index.html"

    def scene(self, name: str) -> Path:
        """One of these scenes, ``01``, ``02``, …"""
        return self.root / "gallery" / f"{name}.png"

    def comfyui(self, name: str) -> Path:
        """A ComfyUI workflow to drop into its window."""
        return self.root / "comfyui" / f"{name}.json"

    def comfyui_api(self, name: str) -> Path:
        """The same workflow in the format that a server runs."""
        return self.root / "comfyui" / f"{name}.api.json"

    @property
    def bundle(self) -> Path:
        """Everything that another machine needs, in one file."""
        return self.root / "bundle.zip"


class Work(_Folder):
    """What characters share; ``root`` is ``work``."""

    def lock(self, base: str) -> Path:
        """The digests of a base's files."""
        return self.root / "bases" / f"{base}.lock.json"

    def judge_lock(self, base: str) -> Path:
        """The instruments that judge the characters of a base, with versions and digests."""
        return self.root / "judges" / f"{base}.lock.json"

    def prepared(self, name: str, suffix: str = ".safetensors") -> Path:
        """A transformer prepared for training (:func:`prepared_name`); its record with the suffix ``.json``."""
        return self.root / "bases" / f"{name}{suffix}"

    def purchases(self, character: str) -> Path:
        """What generators of images were asked for, and what it cost."""
        return self.root / "purchases" / f"{character}.jsonl"

    @property
    def settings(self) -> Path:
        """The folder of settings that are too long for a command line; safe to delete."""
        return self.root / "settings"


def prepared_name(base: str, adapter: str, quantization: str) -> str:
    """What a prepared transformer is called: by its base, training adapter and quantization."""
    return f"{base}-{adapter}-{quantization}"


WORK = Work("work")
INDEX = Path("results/index.html")
"""The page of all characters."""


def lora_name(path: Path) -> str:
    """What pictures call a LoRA: a finished one and a checkpoint by their character, any other by its file."""
    if path == Results(path.parent).final:
        return path.parent.name or path.stem
    made = Results(path.parent.parent)
    if re.fullmatch(step_name("[0-9]+"), path.stem) and path == made.checkpoint(step_of(path)):
        return f"{made.root.name}-{path.stem}".lstrip("-")
    return path.stem


def results(character: str, root: Path = Path()) -> Results:
    """The files of a character, below the folder of the workflow (``root``)."""
    return Results(root / "results" / character)
