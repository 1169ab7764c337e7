# The configuration, checked before any job starts, and the functions that rules ask for paths and settings.
# Nothing here may import torch or pandas: every call of snakemake pays for it.
import os
import re
import sys
from functools import cache
from pathlib import Path
from shlex import quote

from charloom import bases, jobs, slices, sources
from charloom.config import load
from charloom.errors import UserError

# The interpreter of the jobs: snakemake and torch may live in different environments.
CONDA = "CONDA" in {
    method.name for method in workflow.deployment_settings.deployment_method
}
PYTHON = os.environ.get("CHARLOOM_PYTHON", "python" if CONDA else sys.executable)
SCRIPTS = Path(workflow.basedir) / "scripts"

try:
    WORKFLOW = load(".", overrides=config)
except UserError as error:
    # Not a WorkflowError, which would wrap the lines in places of this file that mean nothing to the user.
    sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))

CHARACTERS = WORKFLOW.characters
BASES = WORKFLOW.bases

# Where a start of the trainer makes one checkpoint, its previews and scores (priorities 4 to 2) come before the next
# start. Where it makes all of them, they come after, so that one process draws for every checkpoint.
RUN_AHEAD = {BASES[character.base].run_ahead for character in CHARACTERS.values()}
TRAINING = 1 if any(RUN_AHEAD) else 8

# What every command starts with: `run NAME …` calls the script of that name. Not part of the rules' own text, so
# that neither another interpreter nor another place of the store makes anything run again.
START = f"{quote(PYTHON)} {quote(str(SCRIPTS))}"
if CONDA:
    # The environment holds what charloom needs, not charloom itself.
    START = f"PYTHONPATH={quote(str(workflow.basedir))} {START}"
EXPORTS = {
    "CHARLOOM_STORE": WORKFLOW.store,
    "CHARLOOM_DEVICE": WORKFLOW.device,
    **jobs.environment(os.environ),
}
shell.prefix(
    f"export {' '.join(f'{name}={quote(value)}' for name, value in EXPORTS.items())}; "
    f'run() {{{{ name="$1"; shift; {START}/"$name".py "$@"; }}}}; '
)


def any_of(names):
    """A pattern for exactly these names."""
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"


def settings(slice_of):
    """A params function: the slice of the character's settings that a rule depends on."""
    return lambda wildcards: slice_of(CHARACTERS[wildcards.character])


def settings_of(slice_of, wildcard):
    """The same for rules with one job for each shot or prompt."""
    return lambda wildcards: slice_of(
        CHARACTERS[wildcards.character], wildcards[wildcard]
    )


def untracked(value_of):
    """A params function that may change without making a rule run again.

    Snakemake records no parameter that looks at the input; this one only seems to. It is for hints that
    change how much is done in one go, never what comes out.
    """
    return lambda wildcards, input: value_of(CHARACTERS[wildcards.character])


def files_of(pattern, names_of):
    """An input function: ``pattern`` with every name that ``names_of`` gives for the character."""

    def files(wildcards):
        known = dict(wildcards.items())
        return [
            pattern.format(name=name, **known)
            for name in names_of(CHARACTERS[wildcards.character])
        ]

    return files


def step_names(steps_of):
    """Steps of a character as they stand in paths."""
    return lambda character: [f"{step:06d}" for step in steps_of(character)]


@cache
def image_problems(name):
    """What stands in the way of a character's images."""
    return CHARACTERS[name].image_problems()


def image_of(wildcards):
    """(further data set or None, name in it) of the image that a path names."""
    character = CHARACTERS[wildcards.character]
    part, image = character.part_of(wildcards.shot)
    if image not in (part.files if part else character.shot_names):
        sys.exit(f"error: {character.id} has no image {wildcards.shot}")
    return part, image


def source_inputs(wildcards):
    """Files that one image of the data set is made from; the place where it counts whether there are images."""
    character = CHARACTERS[wildcards.character]
    if lines := image_problems(character.id):
        sys.exit("\n".join(f"error: {line}" for line in lines))
    part, image = image_of(wildcards) if wildcards.get("shot") else (None, None)
    if part:
        return [str(part.files[image])]
    return sources.get(character.source).inputs(
        character, character.shot(image) if image else None
    )


def handwritten_caption(wildcards):
    """The user's own caption of an image, if there is one."""
    character = CHARACTERS[wildcards.character]
    part, image = image_of(wildcards)
    path = (
        part.caption_file(image)
        if part
        else character.caption_file(character.shot(image))
    )
    return [str(path)] if path and path.is_file() else []


def lock_of(wildcards):
    """The lock file of the base that the character is made with."""
    return f"work/bases/{CHARACTERS[wildcards.character].base}.lock.json"


def base_files(wildcards):
    """Files of a base on this disk; those of the hub are named by their revision instead."""
    base = BASES[wildcards.base]
    return bases.local_files(base.path, base.adapters, base.transformer_file)


def prepared(suffix):
    """The prepared transformer that the character trains on."""
    return (
        lambda wildcards: f"work/bases/{slices.prepared_name(CHARACTERS[wildcards.character])}{suffix}"
    )


def previous_checkpoint(wildcards):
    """The checkpoint that a segment goes on from; none for the first."""
    steps = [
        step
        for step in CHARACTERS[wildcards.character].saved_steps
        if step < int(wildcards.step)
    ]
    return (
        f"results/{wildcards.character}/checkpoints/step-{steps[-1]:06d}.safetensors"
        if steps
        else []
    )


def sampled_checkpoint(wildcards):
    """The checkpoint to sample; step 0 is the base alone."""
    if int(wildcards.step) == 0:
        return []
    return (
        f"results/{wildcards.character}/checkpoints/step-{wildcards.step}.safetensors"
    )


def judge_weights(wildcards):
    """The network that judges the character's samples, if its base has one."""
    weights = BASES[CHARACTERS[wildcards.character].base].judge_weights
    return [weights] if weights else []


def settings_with_base(slice_of):
    """A params function for slices that also look at the base."""

    def slice_(wildcards):
        character = CHARACTERS[wildcards.character]
        return slice_of(character, BASES[character.base])

    return slice_


def run_until(wildcards):
    """The step up to which one start of the trainer may go on: as many checkpoints as the base's run_ahead says."""
    character = CHARACTERS[wildcards.character]
    ahead = BASES[character.base].run_ahead
    steps = [step for step in character.saved_steps if step >= int(wildcards.step)]
    return steps[-1] if ahead == 0 else steps[:ahead][-1]


def shippable_checkpoints(wildcards):
    """Checkpoints of which one is shipped."""
    character = CHARACTERS[wildcards.character]
    steps = {*character.candidates, character.saved_steps[-1]}
    if character.checkpoint != "auto":
        steps.add(character.checkpoint)
    return [
        f"results/{character.id}/checkpoints/step-{step:06d}.safetensors"
        for step in sorted(steps)
    ]
