"""A character as the workflow uses it, with plan, base and recipe resolved. Opens no image, imports nothing slow."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from charloom.config import datasets, image_folder, inventory, kinds
from charloom.config.datasets import DataSet
from charloom.config.gallery import Scene
from charloom.config.generation import Generation
from charloom.core import words
from charloom.core.files import expanded

SHOT_KEYS = ("name", "tier", "view", "pose", "expression", "outfit", "accessories", "background")


@dataclass(frozen=True)
class Shot:
    """One image of the data set, in phrases."""

    name: str
    tier: str = ""
    view: str = ""
    outfit: str = ""
    background: str = ""
    pose: str = ""
    expression: str = ""
    accessories: tuple[str, ...] = ()
    subject: str = ""
    """What is shown, where the character is a style."""
    file: str = ""
    """Name of the image in ``images.path``, if it differs from the shot's; with folders, where it is below."""

    def phrases(self) -> dict[str, Any]:
        """The shot as plain values, for settings."""
        subject = {"subject": self.subject} if self.subject else {}
        values = {key: list(value) if isinstance(value := getattr(self, key), tuple) else value for key in SHOT_KEYS}
        return values | subject


@dataclass(frozen=True)
class SamplePrompt:
    """One preview: text, size in pixels, seed and strength of the LoRA. Without the trigger it shows someone else."""

    name: str
    text: str
    width: int
    height: int
    seed: int
    scale: float


@dataclass(frozen=True)
class Character:
    """A character as the workflow uses it; ``id`` is the stem of its file, ``label`` the file as users know it."""

    id: str
    label: str
    name: str
    trigger: str
    concept: str
    appearance: str
    identity_full: str
    identity_hidden: str
    doll: dict[str, str]
    source: str
    folder: str | None
    count: int
    shots: tuple[Shot, ...]
    sample_prompts: tuple[SamplePrompt, ...]
    base: str
    crop: dict[str, int]
    recipe: dict[str, Any]
    checkpoint: str | int
    kind: str = "woman"
    """``class`` of the character file: one of :data:`charloom.config.kinds.CLASSES`."""
    look: str = "photographic"
    noun: str = ""
    """What captions call it, where that is not the class."""
    whole: bool = False
    """Whether the shots are every picture of the folder, for the character file lists none."""
    balance: dict[str, int] = field(default_factory=dict)
    """Shots by tier that the plan means to have; empty for a third each."""
    datasets: tuple[DataSet, ...] = ()
    ship: int | None = None
    """The last step that is trained, if it is not the recipe's; schedules of the learning rate stay the recipe's."""
    excluded: tuple[Shot, ...] = ()
    """Shots that ``images.exclude`` leaves out; nothing is made of them."""
    planned: tuple[str, ...] = ()
    """Names of all shots in the order of the plan, those that are left out too."""
    blank: frozenset[str] = frozenset()
    """Shots that get the default caption: their hand-written one is empty, or none can be composed."""
    is_style: bool = False
    """A way of drawing instead of a person (:mod:`charloom.config.read_style`)."""
    technique: str = ""
    """``images.look``: how the pictures of a style are drawn, for the source paperdoll."""
    people: int = 0
    """Which people and scenes these show."""
    gallery: tuple[Scene, ...] = ()
    """Scenes for the finished LoRA."""
    generation: Generation | None = None
    """How the images are generated, if they are."""
    written: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The character file as it was written, checked but without anything filled in."""

    @cached_property
    def words(self) -> kinds.Words:
        """The words for its class and look."""
        return kinds.of(self.kind, self.look, self.noun)

    @property
    def spoken_of(self) -> dict[str, str]:
        """Class, look and noun as values for settings, as far as they are not a woman's on photographs."""
        usual = {"class": "woman", "look": "photographic", "noun": ""}
        own = {"class": self.kind, "look": self.look, "noun": self.noun}
        return {key: value for key, value in own.items() if value != usual[key]}

    @property
    def has_sheet(self) -> bool:
        """Whether there are prompts for an image generator: of a style only where it has a plan."""
        return not self.is_style or self.kind == "style"

    @property
    def takes_all(self) -> bool:
        """Whether every picture of the folder is used, rather than those of listed shots."""
        return self.whole or (self.is_style and self.kind != "style")

    def missing(self, shot: Shot) -> list[str]:
        """Required phrases that a shot does not have; without them there must be a hand-written caption."""
        needed = {"style": ("tier", "subject"), "creature": ("tier", "view", "background")}
        keys = needed.get("creature" if self.kind == "object" else self.kind, ("tier", "view", "outfit", "background"))
        return [key for key in keys if not getattr(shot, key)]

    def shown_by(self, text: str) -> bool:
        """Whether a prompt asks for the character, or the style: by its trigger, if it has one."""
        return not self.trigger or words.count(text, self.trigger) > 0

    def judged_by(self, usual: str) -> str:
        """Who scores the previews: the base's judge, which knows persons, or the one for styles."""
        return "look" if self.is_style else usual

    def caption_file(self, shot: Shot, root: Path = Path(".")) -> Path | None:
        """The hand-written caption: in ``config/captions/``, or else beside the user's own image."""
        own = inventory.text_of(root / "config" / "captions" / self.id / shot.name)
        if own is None and self.source == "folder" and self.folder:
            own = image_folder.caption_file(self.folder, shot)
        return own

    def unused_files(self, root: Path = Path(".")) -> list[inventory.Unused]:
        """The user's files beside images and captions that nothing reads, and why."""
        written = root / "config" / "captions" / self.id
        shots = [*self.shots, *self.excluded]
        used = [text for shot in shots if (text := inventory.text_of(written / shot.name))]
        found = inventory.of_captions(written, used, [shot.name for shot in shots])
        return found + image_folder.unused(self) + [entry for part in self.datasets for entry in part.unused()]

    def without_words(self) -> list[str]:
        """Lines about shots that have neither a caption nor the phrases to compose one from."""
        if self.source != "folder" or self.default_caption:
            return []
        lost = [shot for shot in self.shots if shot.name in self.blank and self.missing(shot)]
        if self.is_style:
            say = "write one that says what the picture shows, or set recipe.data.default_caption"
            return [f"{self.folder}/{shot.file or shot.name}: has no caption; {say}" for shot in lost]
        remedy = "write a caption for the image, or set recipe.data.default_caption"
        return [
            f"shots.{s.name}: has no caption, nor {', '.join(self.missing(s))} to compose one from; {remedy}"
            for s in lost
        ]

    def shot(self, name: str) -> Shot:
        """The shot called ``name``."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Shot]:
        return {shot.name: shot for shot in self.shots}

    def prompt(self, name: str) -> SamplePrompt:
        """The sample prompt called ``name`` (``01``, ``02``, ...)."""
        return next(prompt for prompt in self.sample_prompts if prompt.name == name)

    @property
    def init(self) -> Path | None:
        """``recipe.network.init``: the LoRA that training starts from, if not from nothing."""
        given = self.recipe["network"].get("init")
        return expanded(given) if given else None

    @property
    def shot_names(self) -> list[str]:
        """Names of the images in the order of the plan."""
        return list(self._by_name)

    @property
    def image_names(self) -> list[str]:
        """Names of all images that are trained on: the shots, then ``<set>/<image>`` of the extra data sets."""
        return [*self.shot_names, *(item for part in self.datasets for item in part.items)]

    def part_of(self, name: str) -> tuple[DataSet | None, str]:
        """The extra data set that an image belongs to (None: the plan), and the image's name in it."""
        part, _, image = name.rpartition("/")
        return next((known for known in self.datasets if known.name == part), None), image

    @property
    def default_caption(self) -> str:
        """``recipe.data.default_caption`` with the trigger filled in; a whole folder has its identity line instead."""
        given = datasets.fill(self.recipe["data"]["default_caption"], self.trigger)
        return given or (datasets.fill(self.identity_full, self.trigger) if self.whole else "")

    @property
    def negative_prompt(self) -> str:
        """What guidance leads away from in previews; empty without guidance, and for the empty prompt."""
        sample = self.recipe["sample"]
        return str(sample["negative"]).strip() if sample["guidance"] > 1 else ""

    @property
    def class_word(self) -> str | None:
        """What replaces the trigger in class captions; None unless differential output preservation is on."""
        differential = self.recipe["train"]["preservation"]["differential"]
        return differential["class"] if differential["enabled"] else None

    @property
    def reference_texts(self) -> dict[str, str]:
        """The text that the base draws the reference from, by the stem of its embedding; none if it draws none."""
        drawn = self.generation and self.generation.base_draws
        return {"_prompt-reference": self.concept} if drawn else {}

    @property
    def prompt_names(self) -> list[str]:
        """Names of the sample prompts in their order."""
        return [prompt.name for prompt in self.sample_prompts]

    @property
    def prompt_texts(self) -> dict[str, str]:
        """The texts of all prompts, those of the gallery included, by name."""
        found = {prompt.name: prompt.text for prompt in self.sample_prompts}
        return found | {scene.prompt: scene.text for scene in self.gallery}

    @property
    def saved_steps(self) -> list[int]:
        """Steps with a checkpoint: every ``save.every`` and the last, which is ``ship`` where it is given."""
        steps = self.recipe_steps
        return [*(step for step in steps if step < self.ship), self.ship] if self.ship else steps

    @property
    def recipe_steps(self) -> list[int]:
        """Steps that the recipe saves, whatever ``ship`` says."""
        last, every = self.recipe["train"]["steps"], self.recipe["save"]["every"]
        return [*range(every, last, every), last]

    @property
    def sampled_steps(self) -> list[int]:
        """Steps with previews, counting 0 (the base alone) where the recipe asks for it."""
        sample = self.recipe["sample"]
        if sample["disable"]:
            return []
        last = self.saved_steps[-1]
        steps = [step for step in self.saved_steps if step % sample["every"] == 0 or step == last]
        return [0, *steps] if sample["force_first"] or not sample["skip_first"] else steps

    @property
    def strengths(self) -> list[float]:
        """Strengths at which the chosen checkpoint is tried; none without previews, nor for a style, which is stacked
        at a strength that each picture chooses."""
        sample = self.recipe["sample"]
        none = sample["disable"] or self.is_style or not self.strength_prompts
        return [] if none else sorted(sample["strengths"])

    @property
    def strength_prompts(self) -> list[SamplePrompt]:
        """The sample prompts by which strengths are compared."""
        wanted = {f"{number:02d}" for number in self.recipe["sample"]["strength_prompts"]}
        return [prompt for prompt in self.sample_prompts if prompt.name in wanted]

    @property
    def candidates(self) -> list[int]:
        """Steps among which validation may choose: ``save.keep`` of the sampled ones."""
        keep = self.recipe["save"]["keep"]
        steps = [step for step in self.sampled_steps if step]
        return steps[-keep:] if isinstance(keep, int) else steps
