# Reads and checks the configuration before any job starts; functions that give rules their paths and settings. Must not
# import anything slow such as torch: every start of snakemake would pay for it.
import atexit
import contextlib
import io
import os
import re
import sys
from functools import cache
from pathlib import Path
from shlex import quote

from snakemake.io import strip_wildcard_constraints

from charloom.workflow import arguments, delivery, judge_slices
from charloom.workflow import gallery_slices, jobs, own_files, slices, targets, training
from charloom.base import locks
from charloom.config import drift, knobs, notices, packages
from charloom.dataset import sources
from charloom.planning import lean
from charloom.config.project import read
from charloom.core.contents import Contents
from charloom.core.errors import UserError
from charloom.core.layout import INDEX, WORK, Results, prepared_name, results
from charloom.core.store import STORE, Store
from charloom.deliver.comfyui import WORKFLOWS

lean.plan_lean()

# The interpreter for the jobs: snakemake and torch may be installed in different environments.
CONDA = "CONDA" in {
    method.name for method in workflow.deployment_settings.deployment_method
}
PYTHON = os.environ.get("CHARLOOM_PYTHON", "python" if CONDA else sys.executable)
OWN_PYTHON = PYTHON == sys.executable
SCRIPTS = Path(str(workflow.current_basedir)).parent / "scripts"


def stop(lines):
    """Exit with error lines for the user."""
    sys.exit("\n".join(f"error: {line}" for line in lines))


if set("{}") & set(str(workflow.basedir)):
    stop(
        [
            f"{workflow.basedir}: Snakemake cannot run in a folder with braces in its name; rename it"
        ]
    )

try:
    WORKFLOW = read(".", overrides=config)
except UserError as error:
    # Not a WorkflowError, which would add lines of this file that mean nothing to the user.
    stop(str(error).splitlines())

BASES = WORKFLOW.bases
# The paths of the rules with their wildcards; "{step}" is a step of six digits.
RESULTS = Results("results/{character}")
PREPARED = prepared_name("{base}", "{adapter}", "{quantization}")
HAS_GPU = notices.has_gpu(WORKFLOW.device)
# A job on the CPU takes all cores; one on a GPU leaves some to other jobs.
HEAVY_THREADS = 4 if HAS_GPU else 64
CONTENTS = Contents(Store(WORKFLOW.store))
atexit.register(CONTENTS.save)

# If each start of the trainer makes one checkpoint, its previews and scores (priorities 4 to 2) come before the next
# start. If one start makes all checkpoints, they come afterwards, so that one process draws for every checkpoint.
RUN_AHEAD = {BASES[one.base].run_ahead for one in WORKFLOW.projects.values()}
TRAINING = 1 if any(RUN_AHEAD) else 8

# Defines `run NAME …`, which calls a script, and `stored ENTRY OUTPUT`. Snakemake does not record a prefix, so neither
# another interpreter nor another location of the store makes anything run again.
START = f"{quote(PYTHON)} {quote(str(SCRIPTS))}"
if CONDA:
    # The environment holds what charloom needs, not charloom itself: that is in the clone, or where it is installed.
    START = f"PYTHONPATH={quote(arguments.code_of(SCRIPTS))} {START}"
EXPORTS = {
    STORE: WORKFLOW.store,
    jobs.DEVICE: WORKFLOW.device,
    jobs.GPUS: str(WORKFLOW.gpus),
}
if OWN_PYTHON and (lost := packages.told(WORKFLOW.projects.values(), HAS_GPU)):
    EXPORTS[packages.VARIABLE] = lost
PREFIX = (
    f"export {' '.join(f'{name}={quote(value)}' for name, value in EXPORTS.items())}; "
    f'run() {{ name="$1"; shift; {START}/"$name".py "$@"; }}; '
    f"{own_files.STORED}"
)
shell.prefix(PREFIX.replace("{", "{{").replace("}", "}}"))


def any_of(names):
    """A pattern that matches exactly these names."""
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"


@cache
def person(name):
    """A character; prints notes about it once. Stops snakemake if its file has mistakes."""
    try:
        character = WORKFLOW.character(name)
    except UserError as error:
        stop(str(error).splitlines())
    if workflow.is_main_process:
        for line in notes_on(character):
            print(f"note: {name}: {line}", file=sys.stderr)
    return character


def value(text):
    """A slice of the settings as a command-line argument; a dry run writes no file for it."""
    return arguments.shortened(text, write=not workflow.dryrun)


def per_character(value_of):
    """``value_of`` a character, by name: computed once, and one string in memory for all jobs."""
    return cache(lambda name: value(value_of(person(name))))


def settings(slice_of):
    """A params function: the slice of the character's settings that a rule depends on."""
    slice_ = per_character(slice_of)
    return lambda wildcards: slice_(wildcards.character)


def settings_of(slice_of, wildcard):
    """Like :func:`settings`, for rules with one job per shot or prompt."""
    slice_ = cache(lambda name, item: value(slice_of(person(name), item)))
    return lambda wildcards: slice_(wildcards.character, wildcards[wildcard])


def settings_with_base(slice_of):
    """Like :func:`settings`, for slices that also depend on the base."""
    return settings(lambda character: slice_of(character, BASES[character.base]))


def untracked(value_of):
    """A params function whose value may change without making a rule run again.

    Snakemake does not record parameters that depend on the input; the unused argument makes this look like one. Only
    for hints about how much to do in one go, never for what affects the result.
    """
    hint = per_character(value_of)
    return lambda wildcards, input: hint(wildcards.character)


def path_of(file_of):
    """A params function: the path of a user's file, whose contents :func:`content_of` tracks. As an input, braces in
    its name would be wildcards, and its date would count.
    """
    return lambda wildcards, input: arguments.written(file_of(wildcards))


def content_of(file_of):
    """A params function: a token for the contents of a user's file, whose change makes the rule run again."""
    return lambda wildcards: CONTENTS.of(file_of(wildcards))


def files_of(pattern, names_of):
    """An input function: ``pattern`` filled with every name that ``names_of`` gives for the character."""

    pattern = Path(pattern).as_posix()

    def files(wildcards):
        known = dict(wildcards.items())
        return [
            pattern.format(name=name, **known)
            for name in names_of(person(wildcards.character))
        ]

    return files


def step_names(steps_of):
    """Steps of a character as written in paths."""
    return lambda character: [f"{step:06d}" for step in steps_of(character)]


@cache
def image_problems(name):
    """What prevents a character's images, or those of its gallery's styles, from being made."""
    names = (name, *gallery_slices.styles(WORKFLOW.projects[name]))
    return [line for one in names for line in sources.problems(WORKFLOW.projects[one])]


def pages_and_file(name):
    """What is made for a character; a style whose pictures exist needs no prompt sheet."""
    made, character = results(name), WORKFLOW.characters.get(name)
    has_sheet = getattr(WORKFLOW.projects.get(name), "has_sheet", True)
    scenes = [made.gallery] if character and character.gallery else []
    return [made.final, made.report, *[made.prompt_page] * has_sheet, *scenes]


@cache
def left_out():
    """Characters with mistakes in their file or without all their images, with the lines that say so."""
    incomplete = {
        name: lines for name in WORKFLOW.characters if (lines := image_problems(name))
    }
    return dict(WORKFLOW.broken) | incomplete


def reported():
    """The characters that have a page, and so are on the page of all characters."""
    return [name for name in WORKFLOW.characters if name not in left_out()]


@cache
def everybody():
    """What is made for all characters with a valid file and all their images; a line is printed for each other one."""
    out = left_out()
    if len(out) == len(WORKFLOW.broken) + len(WORKFLOW.characters):
        stop([line for lines in out.values() for line in lines])
    if workflow.is_main_process:
        for name, lines in sorted(out.items()):
            more = (
                f" ({len(lines) - 1} more: charloom lint {name})" if lines[1:] else ""
            )
            print(f"left out: {name}: {lines[0]}{more}", file=sys.stderr)
    files = [path for name in reported() for path in pages_and_file(name)]
    return files if WORKFLOW.shard else [*files, INDEX]


def image_of(wildcards):
    """(extra data set or None, name in it) of the image in a path."""
    character = person(wildcards.character)
    part, image = character.part_of(wildcards.shot)
    if image not in (part.files if part else character.shot_names):
        stop([f"{character.id} has no image {wildcards.shot}"])
    return part, image


def own_image(wildcards):
    """The user's file for an image of the data set or for the reference; None if it is made."""
    character = person(wildcards.character)
    part, image = image_of(wildcards) if wildcards.get("shot") else (None, None)
    if part:
        return part.files[image]
    if character.source == "paperdoll":
        return None
    shot = character.shot(image) if image else None
    return next(iter(sources.get(character.source).inputs(character, shot)), None)


def source_inputs(wildcards):
    """Files of the workflow from which an image is made. Stops snakemake if the user's images are missing."""
    character = person(wildcards.character)
    if lines := image_problems(character.id):
        stop(lines)
    part, image = image_of(wildcards) if wildcards.get("shot") else (None, None)
    if part or character.source != "paperdoll":
        return []
    return sources.get(character.source).inputs(
        character, character.shot(image) if image else None
    )


def own_caption(wildcards):
    """The user's caption of an image, if there is one."""
    character = person(wildcards.character)
    part, image = image_of(wildcards)
    path = (
        part.caption_file(image)
        if part
        else character.caption_file(character.shot(image))
    )
    return path if path and path.is_file() else None


def lock_of(wildcards):
    """The lock file of the base that the character is made with."""
    return WORK.lock(person(wildcards.character).base)


def base_content(wildcards):
    """A token for the contents of a base's local files; files of the hub are identified by their revision."""
    base = BASES[wildcards.base]
    return CONTENTS.of_all(
        locks.local_files(base.path, base.adapters, base.transformer_file)
    )


def prepared(suffix):
    """The prepared transformer that the character trains on."""
    return lambda wildcards: WORK.prepared(
        slices.prepared_name(person(wildcards.character)), suffix
    )


def previous_checkpoint(wildcards):
    """The checkpoint from which a segment continues; none for the first."""
    steps = [
        step
        for step in person(wildcards.character).saved_steps
        if step < int(wildcards.step)
    ]
    return results(wildcards.character).checkpoint(steps[-1]) if steps else []


def judge_weights(wildcards):
    """The weights of the judge, if the character's base has one."""
    return BASES[person(wildcards.character).base].judge_weights


def run_until(wildcards):
    """The step to which one start of the trainer may run ahead: as many checkpoints as the base's run_ahead.

    ``charloom try`` sets a bound, because it needs no more than its own step.
    """
    character, step = person(wildcards.character), int(wildcards.step)
    if step not in character.saved_steps:
        return step  # asked for by hand, or by charloom try
    most = max(step, int(os.environ.get(training.UNTIL, character.saved_steps[-1])))
    steps = [one for one in character.saved_steps if step <= one <= most]
    ahead = BASES[character.base].run_ahead
    return steps[-1] if ahead == 0 else steps[:ahead][-1]


def shippable_checkpoints(wildcards):
    """The checkpoints from which one is chosen to ship."""
    character = person(wildcards.character)
    steps = {*character.candidates, character.saved_steps[-1]}
    if character.checkpoint != "auto":
        steps.add(character.checkpoint)
    return [results(character.id).checkpoint(step) for step in sorted(steps)]


def bundle_extras(wildcards):
    """Files that the bundle also contains, if a rule makes them."""
    made = results(wildcards.character)
    character = person(wildcards.character)
    scenes = [made.gallery] if character.gallery else []
    return [*scenes, *([made.strengths] if character.strengths else [])]


def products(name, further=()):
    """Every file that can be made for a character; ``further`` are steps that the recipe does not save."""
    character = person(name)
    last = character.saved_steps[-1]
    steps = {0, *character.saved_steps, *character.sampled_steps}
    steps |= {step for step in further if step < last}
    values = {
        "shot": character.image_names,
        "text": list(slices.texts(character)),
        "step": [f"{step:06d}" for step in sorted(steps)],
        "prompt": character.prompt_names,
        "strength": [f"{strength:.2f}" for strength in character.strengths],
        "scene": [scene.name for scene in character.gallery],
        "drift": [one["name"] for one in drift.prompts(character)],
    }
    outputs = (str(path) for one in workflow.rules for path in one.output)
    for pattern in map(strip_wildcard_constraints, outputs):
        found = [pattern] if "{character}" in pattern else []
        for wildcard, names in {"character": [name], **values}.items():
            sign = f"{{{wildcard}}}"
            if sign in pattern:
                found = [path.replace(sign, one) for path in found for one in names]
        yield from found


def is_made(target):
    """Whether a target is a rule, or a file that a rule makes."""
    try:
        path = Path(os.path.relpath(target))
    except ValueError:  # on another disk
        return False
    name = path.parts[1] if path.parts[2:] and path.parts[0] == "results" else None
    if name in WORKFLOW.projects:
        steps = map(int, re.findall(r"(?<!\d)\d{6}(?!\d)", path.as_posix()))
        return path.as_posix() in products(name, steps)
    return workflow.is_rule(target) or any(
        one.is_producer(path.as_posix()) for one in workflow.rules
    )


def wrong_targets():
    """A line for each target on the command line that no rule makes.

    Snakemake would report them later as "No rule to produce". Whether a word is a target or the value of an option,
    only Snakemake's own parser knows.
    """
    words = {
        word
        for word in sys.argv[1:]
        if not word.startswith("-") and not word.isdigit() and not is_made(word)
    }
    if not words:
        return []
    from snakemake.cli import parse_args

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            asked = parse_args(sys.argv[1:])[1].targets or []
    except (Exception, SystemExit):
        return []  # not started by the snakemake command
    return [
        targets.complaint(word, WORKFLOW, products) for word in asked if word in words
    ]
