# Input functions of validate.smk, for the judge auto and for drift.


def own_judge(wildcards):
    """Which instruments judge the character, if its base's judge is auto."""
    name = wildcards.character
    judge = person(name).judged_by(BASES[person(name).base].judge)
    return results(name).judge if judge == "auto" else []


def judge_gpus(wildcards):
    """GPUs for scoring: the judge auto uses one if there is one."""
    return int(bool(own_judge(wildcards)))


def judge_lock(wildcards):
    """The lock file of the judge of the character's base."""
    return WORK.judge_lock(person(wildcards.character).base)


def base_samples(wildcards):
    """The previews of the base alone, which the report shows too."""
    character = person(wildcards.character)
    names = character.prompt_names if character.sampled_steps else []
    return [results(character.id).sample(0, name) for name in names]


def without_style(wildcards):
    """What the base draws without the style; from these the judge of a style learns the difference."""
    return base_samples(wildcards) if person(wildcards.character).is_style else []


def drift_samples(wildcards):
    """The previews of a checkpoint that measure drift, and the ordinary ones of the same prompts."""
    character, step = person(wildcards.character), int(wildcards.step)
    made = results(character.id)
    usual = {one["of"] for one in drift.prompts(character)} if step else set()
    drawn = [made.drift_sample(step, name) for name in drift.names(character, step)]
    return drawn + [made.sample(step, name) for name in sorted(usual)]
