# Input functions of the stages after training, beside those of common.smk.


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


def gpu_threads(wildcards):
    """CPU threads of a job that computes on a GPU, or in its place: all of them, or its share where several run."""
    jobs = workflow.global_resources.get("gpu") or 1
    cores = workflow.global_resources.get("_cores") or 1
    return 64 if jobs == 1 else max(1, min(64, cores // jobs))
