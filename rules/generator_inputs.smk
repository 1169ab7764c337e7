# Functions for the rules of sources.smk: their inputs and parameters, and for which characters they are.
from charloom.config.generation import GENERATOR, REFERENCE
from charloom.dataset.sources import purchases
from charloom.dataset.sources.diffusers import files_of as files_of_model, folder_of
from charloom.workflow import picture_slices

# Lets the jobs of one run know what the others have given up.
os.environ.setdefault(purchases.RUN, f"{os.getpid()}-{os.urandom(4).hex()}")


def generated_by(fits):
    """A pattern that matches the characters with generated pictures that ``fits`` selects."""
    people = WORKFLOW.characters.items()
    return any_of(name for name, one in people if one.generation and fits(one))


def on_gpu(character):
    """Whether a character's pictures are drawn by a pipeline on this machine."""
    return character.generation.source == "diffusers"


@cache
def generated_pictures(name):
    """What each picture of a character depends on."""
    return picture_slices.wanted(person(name))


def picture_settings(wildcards):
    """The slice of a picture's settings, or of the reference's if there is no shot."""
    found = generated_pictures(wildcards.character)
    return value(slices.canonical_json(found[wildcards.get("shot") or REFERENCE]))


def face_judge(wildcards):
    """The lock file of the instruments that compare faces, if the base's judge is auto."""
    character = person(wildcards.character)
    kind = picture_slices.instrument(character, BASES[character.base])
    return WORK.judge_lock(character.base) if kind == "auto" else []


def face_probe(wildcards):
    """The network that compares paper dolls, if the base has one."""
    character = person(wildcards.character)
    base = BASES[character.base]
    kind = picture_slices.instrument(character, base)
    return base.judge_weights if kind == "paperdoll" else None


def face_instruments(wildcards, input):
    """What compares faces, as an argument of the job."""
    if lock := input.get("judge"):
        wanted = person(wildcards.character).recipe["validation"]["identity"]
        return slices.canonical_json({"lock": str(lock), "identity": wanted})
    probe = face_probe(wildcards)
    return slices.canonical_json({"probe": str(probe)} if probe else None)


def model_content(wildcards):
    """A token for the contents of a pipeline in a folder."""
    folder = folder_of(person(wildcards.character).generation)
    return CONTENTS.of_all(files_of_model(folder)) if folder else ""


def generation_ready(wildcards):
    """Nothing to wait for; stops snakemake if the pictures cannot be generated."""
    if lines := image_problems(wildcards.character):
        stop(lines)
    return []
