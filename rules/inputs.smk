# Input functions of the stages after training, beside those of common.smk.
from snakemake.settings.types import SharedFSUsage


def sampled_checkpoint(wildcards):
    """The checkpoint to sample; step 0 is the base alone."""
    step = int(wildcards.step)
    return results(wildcards.character).checkpoint(step) if step else []


def strength_pictures(wildcards):
    """The pictures of the strength sweep."""
    character = person(wildcards.character)
    return [
        results(character.id).strength(strength, prompt.name)
        for strength in character.strengths
        for prompt in character.strength_prompts
    ]


def strength_sweep(wildcards):
    """The scores of the strength sweep and its strip, if there is one."""
    made = results(wildcards.character)
    found = person(wildcards.character).strengths
    return [made.strengths, made.strength_strip] if found else []


def training_gpus(wildcards):
    """GPUs that one training uses at once."""
    return WORKFLOW.gpus_for(person(wildcards.character))


def pictures_to_send(wildcards):
    """The character's own pictures, which the manifest lists: inputs only where jobs do not see this folder."""
    usage = workflow.storage_settings.shared_fs_usage
    if SharedFSUsage.INPUT_OUTPUT in usage:
        return []
    made = results(wildcards.character)
    return [made.image(name) for name in person(wildcards.character).shot_names]


# With files in a bucket, only Snakemake knows what they are called there.
IN_STORAGE = workflow.storage_settings.default_storage_provider


def link_storage(known):
    """Let jobs find the local copies of files in storage where they would be without it: scripts read the neighbours of
    their inputs. ``known`` is the path of an output of the workflow.
    """
    place = Path(str(known).removesuffix(str(WORK.lock("{base}"))))
    links = [
        f"[ -e {name} ] || {{ mkdir -p {quote(str(place / name))} && ln -s {quote(str(place / name))} {name}; }}; "
        for name in ("results", "work")
    ]
    shell.prefix(("".join(links) + PREFIX).replace("{", "{{").replace("}", "}}"))
