"""``charloom images``: says which pictures of a character are missing and what they cost, and generates them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from charloom.cli import planning, running
from charloom.config.base import Base
from charloom.config.character import Character
from charloom.config.generation import GENERATOR, PAID, REFERENCE, Generation
from charloom.core import last_run
from charloom.core.errors import UserError
from charloom.core.layout import Work, results
from charloom.core.store import Store
from charloom.dataset.sources import folder
from charloom.dataset.sources.orders import KIND
from charloom.dataset.sources.purchases import FAILED, RUN, STOPPED, Budget, Purchases
from charloom.workflow import generating, likeness, picture_slices

PACKAGES = {"gemini": "google.genai", "openai": "openai"}
"""The package that a source needs; the extra with the source's name installs it."""


@dataclass(frozen=True)
class Outlook:
    """What is still to be generated; ``reference`` says who makes the reference, and is empty if it exists."""

    character: Character
    generation: Generation
    reference: str
    missing: list[str]
    purchases: Purchases

    @property
    def count(self) -> int:
        """Number of pictures to generate, including the reference if the generator draws it."""
        return len(self.missing) + (self.reference == "generator")

    @property
    def most(self) -> int:
        """The same number if every attempt is far from the reference."""
        return self.count + len(self.missing) * self.generation.retry

    @property
    def budget(self) -> Budget:
        """What may be spent."""
        one = self.generation
        return Budget(one.pictures, one.money, one.price)


def outlook(root: Path, character: Character, store: Store) -> Outlook:
    """What of a character's pictures is in neither the results nor the store.

    Raises:
        UserError: its pictures are not generated.
    """
    generation = character.generation
    if generation is None:
        raise UserError(
            f"{character.label}: images.source is {character.source}, which generates nothing; "
            "name a generator (docs/sources.md)"
        )
    made = results(character.id, root)
    wanted = picture_slices.wanted(character)
    reference, who = _reference(root, made.reference, generation, wanted, store)
    missing = list(character.shot_names)
    if reference:
        content = None
        if generation.source == "diffusers":
            from charloom.dataset.sources.diffusers import folder_of

            if model := folder_of(generation):
                content = generating.content_of_model(model, store, print)
        # Faces are not compared here: whatever attempts are stored were needed.
        batch = generating.Batch(wanted, reference, store, likeness.Nobody, content)
        known = likeness.records(made, missing)
        keys = {name: {order.key for order in batch.orders(name)} for name in missing}
        missing = [
            name
            for name in missing
            if not store.has(KIND, batch.orders(name)[0].key, ".png")
            and known.get(name, {}).get("key") not in keys[name]
        ]
    return Outlook(character, generation, who, missing, Purchases(Work(root / "work").purchases(character.id)))


def _reference(
    root: Path, made: Path, generation: Generation, wanted: dict[str, dict[str, Any]], store: Store
) -> tuple[Path | None, str]:
    """The present reference, as far as it is known before it is made; and who makes it, if it does not exist."""
    if made.is_file() and not _stale(root, made):
        return made, ""
    if generation.file:
        file = Path(generation.file)
        return (file if folder.is_png(file) else None), "file"  # a PNG is taken as it is
    if generation.reference == GENERATOR:
        order = generating.Batch(wanted, None, store, likeness.Nobody).orders(REFERENCE)[0]
        if (bought := store.path(KIND, order.key, ".png")).is_file():
            return bought, ""
    return None, generation.reference


def _stale(root: Path, path: Path) -> bool:
    """Whether Snakemake would make a picture again; a dry run."""
    if not (root / "Snakefile").is_file():
        return False
    return not planning.nothing_to_do(planning.dry_run([path.relative_to(root).as_posix()], root))


def lines(found: Outlook, base: Base) -> list[str]:
    """The same in words."""
    one = found.generation
    total = len(found.character.shots)
    model = f" ({one.settings['model']})" if "model" in one.settings else ""
    done = total - len(found.missing)
    out = [
        f"{found.character.id}: {total} pictures by {one.source}{model}: {done} are there, {len(found.missing)} to get"
    ]
    draws = {
        "file": f"{one.file}",
        "generator": f"drawn by {one.source} from concept.prompt",
        "z-image": f"drawn by the base {base.name} from concept.prompt",
    }
    if found.reference:
        out.append(f"  reference: {draws[found.reference]}")
    if one.source in PAID:
        out += [f"  {line}" for line in _costs(found)]
    elif found.missing:
        out.append("  cost: none; drawn on a machine of yours")
    out += [f"  to do: {line}" for line in _needs(one) if found.count]
    return out


def _costs(found: Outlook) -> list[str]:
    one, bought = found.generation, found.purchases
    price = one.price
    most = f"; with retry: {one.retry} at most {found.most}" if found.most > found.count else ""
    if price is None:
        out = [f"cost: {found.count} pictures to buy{most}; set images.{one.source}.price for the money"]
    else:
        worst = f" pictures, {found.most * price:.2f}" if most else ""
        out = [f"cost: {found.count} x {price:g} = {found.count * price:.2f}{most}{worst}"]
    if bought.pictures:
        out.append(f"spent so far: {bought.pictures} pictures, {bought.money:.2f}")
    left = bought.affordable(found.budget)
    if left is None:
        out.append("budget: none is set; images.budget limits pictures and money")
    elif left < found.count:
        out.append(f"budget: is enough for {left} more; raise images.budget for the other {found.count - left}")
    else:
        out.append(f"budget: is enough for {left} more")
    return out


def _needs(one: Generation) -> list[str]:
    """What would stop the first job."""
    out = []
    module = PACKAGES.get(one.source)
    if module and not _installed(module):
        out.append(f"pip install 'charloom[{one.source}]'")
    variable = one.settings.get("key_from")
    if variable and one.paid and not os.environ.get(variable, "").strip():
        out.append(f"put your API key into the environment variable {variable}")
    return out


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent
        return False


def run(root: Path, found: Outlook, options: Sequence[str]) -> None:
    """Get the pictures with snakemake, which writes to this terminal.

    Raises:
        UserError: snakemake failed; it has said why.
    """
    made = results(found.character.id)
    targets = [made.reference, *(made.source(name) for name in found.character.shot_names)]
    cores = [] if last_run.cores_given(options) else ["--cores", "all"]
    arguments = [*cores, *(path.as_posix() for path in targets), *options]
    # Both calls count as one run, so that the second does not ask again for what was refused in the first.
    one = {RUN: f"{os.getpid()}-{os.urandom(4).hex()}"}
    if not running.snakemake(arguments, root, one):
        return
    lost, name = refused(found, one[RUN]), found.character.id
    if lost:
        # Snakemake stopped at the first refusal; the other pictures are still put in place.
        running.snakemake([*arguments, "--keep-going"], root, one)
    lines = [f"{name}: {shot}: {why}" for shot, why in lost.items()]
    raise UserError.several(
        [*lines, f"images: not all pictures of {name} are there; what has arrived is kept, run it again"]
    )


def refused(found: Outlook, run: str) -> dict[str, str]:
    """By shot, why single pictures failed in a run; empty if the generator refused to go on at all."""
    of_run = [line for line in Purchases(found.purchases.path).lines if line.get("run") == run]
    if any(line["what"] == STOPPED for line in of_run):
        return {}
    return {str(line.get("picture")): str(line.get("why")) for line in of_run if line["what"] == FAILED}
