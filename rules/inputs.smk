# Functions that give rules their inputs and parameters, in addition to those of common.smk.
import json

from charloom.config import captioning, masking
from charloom.train import progress
from charloom.workflow import caption_slices, mask_slices, training
from snakemake.settings.types import SharedFSUsage

# Patterns for the name of an image of the plan, and of an extra data set.
OF_PLAN = "[a-z0-9][a-z0-9_-]*"
OF_SET = f"{OF_PLAN}/{OF_PLAN}"


@cache
def described_without_asking(name):
    """The pictures of a character whose captions are made from the captioner's text without asking."""
    return frozenset(caption_slices.taken(person(name)))


def raw_caption_of(wildcards):
    """What the captioner says about a picture, if its caption is made from that."""
    name = wildcards.character
    taken = wildcards.shot in described_without_asking(name)
    return [results(name).raw_caption(wildcards.shot)] if taken else []


def captioner_gpus(wildcards):
    """GPUs for describing a picture: none if an API does it."""
    found = captioning.of(person(wildcards.character)).captioner
    return 1 if found and found.local else 0


def captioner_content(wildcards):
    """A token for the contents of a captioner's folder; a model of the Hub is identified by its revision."""
    found = captioning.of(person(wildcards.character)).captioner
    return CONTENTS.of_all(found.files) if found and found.files else ""


def own_mask(wildcards):
    """The user's mask of a picture, if there is one."""
    return masking.mask_file(person(wildcards.character), wildcards.shot)


def proposals_of(wildcards):
    """What the captioner proposes, if the character has one."""
    name = wildcards.character
    found = captioning.of(person(name)).captioner
    return [results(name).proposals] if found else []


def who(fits):
    """A pattern that matches the characters and styles that ``fits`` selects."""
    return any_of(name for name, one in WORKFLOW.projects.items() if fits(one))


def as_written(character):
    """Whether captions are the user's, or one for all pictures; a captioner's are written one by one."""
    return not captioning.of(character).auto


def siblings_of(files_of):
    """A params function, untracked: the user's files that are converted together with that of an image, as JSON."""
    hint = cache(lambda name, part: value(json.dumps(files_of(person(name), part))))
    return lambda wildcards, input: hint(
        wildcards.character, wildcards.shot.rpartition("/")[0]
    )


def stored_picture(wildcards, input):
    """Where the store has one of the user's pictures, or is going to."""
    made = json.loads(
        own_files.picture_settings(person(wildcards.character), wildcards.shot)
    )
    content = CONTENTS.of(own_image(wildcards))
    return own_files.PICTURE.entry(CONTENTS.store, content, made).as_posix()


def stored_caption(wildcards, input):
    """Like :func:`stored_picture`, for its caption."""
    made = json.loads(slices.caption(person(wildcards.character), wildcards.shot))
    content = CONTENTS.of(own_caption(wildcards))
    return own_files.CAPTION.entry(CONTENTS.store, content, made).as_posix()


def training_slice(character):
    """What training depends on; the LoRA that it starts from counts by content."""
    return training.started_from(slices.train(character), CONTENTS.of(character.init))


def first_lora(wildcards):
    """The LoRA that training starts from, if the recipe names one."""
    return person(wildcards.character).init


def prompt_page(wildcards):
    """The prompts for an image generator; a style whose pictures exist has none."""
    sheet = person(wildcards.character).has_sheet
    return results(wildcards.character).prompt_page if sheet else []


def sampled_checkpoint(wildcards):
    """The checkpoint to sample; step 0 is the base alone."""
    first_untrained(wildcards.character)  # asked now, before any checkpoint is made
    step = int(wildcards.step)
    return results(wildcards.character).checkpoint(step) if step else []


# By character, the first step that this run trains, 0 if its trainer will not draw; empty until the run starts.
TO_TRAIN = {}


def note_training():
    """Fill TO_TRAIN from the jobs of this run: a checkpoint of other settings may exist and is trained anew."""
    for job in workflow.dag.needrun_jobs():
        if job.rule.name == "train_segment":
            name, step = job.wildcards.character, int(job.wildcards.step)
            # After it was killed for lack of memory, the trainer draws nothing.
            step = 0 if progress.killed(results(name).training) else step
            TO_TRAIN[name] = min(step, TO_TRAIN.get(name, step))


@cache
def first_untrained(name):
    """The first step of a character without a checkpoint when the plan was made; 0 if all existed."""
    made = results(name)
    missing = (
        step for step in person(name).saved_steps if not made.checkpoint(step).is_file()
    )
    return next(missing, 0)


def drawn_before(wildcards):
    """Whether the trainer will have drawn a preview, so that its job only links it. If it has not, that job draws.

    Never for previews of the base alone, which do not wait for training, nor if jobs may go to a machine without a GPU.
    """
    name = wildcards.character
    first = TO_TRAIN.get(name, 0) if TO_TRAIN else first_untrained(name)
    here = workflow.local_exec and not workflow.remote_exec and not IN_STORAGE
    return (
        here
        and bool(first)
        and int(wildcards.step) >= first
        and training.draws(person(name), HAS_GPU)
    )


def drawing_threads(wildcards):
    """Cores for a preview; linking takes one, so that many are linked at a time."""
    return 1 if drawn_before(wildcards) else HEAVY_THREADS


def drawing_gpus(wildcards):
    """GPUs for a preview."""
    return 0 if drawn_before(wildcards) else 1


def negative_embedding(wildcards):
    """The embedding that previews are guided away from."""
    prompt = person(wildcards.character).negative_prompt
    return results(wildcards.character).negative_embedding(prompt)


def strength_pictures(wildcards):
    """The pictures of the strength sweep."""
    character = person(wildcards.character)
    if not character.strengths:
        why = (
            "a style has no strength sweep"
            if character.is_style
            else "no strengths: recipe.sample leaves none to draw"
        )
        stop([f"{results(character.id).strengths}: {why}"])
    return [
        results(character.id).strength(strength, prompt.name)
        for strength in character.strengths
        for prompt in character.strength_prompts
    ]


def strength_sweep(wildcards):
    """The scores and the strip of the strength sweep, if there is one."""
    made = results(wildcards.character)
    found = person(wildcards.character).strengths
    return [made.strengths, made.strength_strip] if found else []


def scenes_of(wildcards):
    """The pictures of the gallery."""
    character = person(wildcards.character)
    if not character.gallery:
        if (
            not character.has_sheet
        ):  # a style of finished pictures, whose file cannot have a gallery
            stop(
                [
                    f"{results(character.id).gallery}: a style has no gallery; name it in that of a character"
                ]
            )
        remedy = "write the prompts of scenes there, as in config/characters/leyla.yaml"
        stop([f"{character.label}: gallery: is missing; {remedy}"])
    return [results(character.id).scene(scene.name) for scene in character.gallery]


def gallery_styles(wildcards):
    """The finished LoRAs of this workflow's styles in the gallery."""
    names = gallery_slices.styles(person(wildcards.character))
    return [results(name).final for name in names]


def training_gpus(wildcards):
    """GPUs that one training uses at once."""
    return WORKFLOW.gpus_for(person(wildcards.character))


def pictures_to_send(wildcards):
    """The character's own pictures, which the manifest lists: inputs only if jobs cannot see this folder."""
    usage = workflow.storage_settings.shared_fs_usage
    if SharedFSUsage.INPUT_OUTPUT in usage:
        return []
    made = results(wildcards.character)
    return [made.image(name) for name in person(wildcards.character).shot_names]


# The provider of a bucket with the files, if there is one: only Snakemake knows their paths then.
IN_STORAGE = workflow.storage_settings.default_storage_provider


def link_storage(known):
    """Link the local copies of files in storage to where they would be without it, because scripts read files beside
    their inputs. ``known`` is the path of an output of the workflow.
    """
    place = Path(str(known).removesuffix(str(WORK.lock("{base}"))))
    links = [
        f"[ -e {name} ] || {{ mkdir -p {quote(str(place / name))} && ln -s {quote(str(place / name))} {name}; }}; "
        for name in ("results", "work")
    ]
    shell.prefix(("".join(links) + PREFIX).replace("{", "{{").replace("}", "}}"))


def bundle_settings(character, base):
    """What the bundle depends on besides files; a style has no bundle."""
    if character.is_style:
        stop(
            [
                f"{results(character.id).bundle}: a style has no bundle; "
                f"{results(character.id).final} is all that others need"
            ]
        )
    return delivery.bundle(character, base)


def on_index():
    """The characters on the page of all characters; made from a shard, it would lose the others."""
    if WORKFLOW.shard:
        stop([f"{INDEX}: is about all characters; make it without shard"])
    return reported()
