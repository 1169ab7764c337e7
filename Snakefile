# charloom: from an idea for a character to a LoRA file that draws it.
#
#   snakemake --cores 2 results/leyla/final.safetensors    one character
#   snakemake --cores 2 leyla                               the same, with the pages about it
#   snakemake --cores 2                                     every character of config/characters/
#   snakemake -n                                            what would be made, and why (shorter: charloom plan)
from snakemake.utils import min_version

from charloom.core import missing_package

min_version("9.11.7")


# The front page of `snakemake --report report.zip`.
report: "rules/captions/workflow.rst"


with missing_package.named():

    include: "rules/common.smk"
    include: "rules/inputs.smk"
    include: "rules/generator_inputs.smk"
    include: "rules/terminal.smk"
    include: "rules/locks.smk"


wildcard_constraints:
    character=any_of(WORKFLOW.names),
    base=any_of(BASES),
    shot=f"({OF_PLAN}|{OF_SET})",
    text="_[a-z0-9-]+",
    step="[0-9]{6}",
    prompt="[0-9]{2}",
    scene="[0-9]{2}",
    strength="[0-9][.][0-9]{2}",
    drift="[0-9]{2}-(class|steps)",
    adapter="[a-z0-9][a-z0-9._-]*",
    quantization=any_of(knobs.choices("quantization.transformer")),


# GPU limits count per host. On a cluster every job has its own.
resource_scopes:
    gpu="local",


# For clusters: jobs that take seconds, and the big download, because compute nodes often have no internet access.
localrules:
    lock_base,
    write_prompts,
    make_reference,
    make_source_image,
    convert_picture,
    convert_set_picture,
    generate_reference,
    generate_picture,
    crop_watermark,
    write_caption,
    take_caption,
    take_set_caption,
    propose_captions,
    make_mask,
    lint_dataset,
    write_manifest,
    draw_grid,
    lock_judge,
    choose_checkpoint,
    verify_checkpoint,
    write_report,
    write_index,
    export_final,
    write_gallery,
    write_comfyui,
    make_bundle,
    compare_results,


# Snakemake's default limit of 100 job starts per second is never reached here, but for every job that ended while
# others were ready it wakes the main loop once more per second: a large batch ends up using a whole core. A longer
# timespan (--max-jobs-per-timespan) only delays that, and the exit. A limit set by the user is kept.
# docs/snakemake-scheduler.md
onstart:
    limit = getattr(workflow.scheduler, "job_rate_limiter", None)
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
    note_training()
    need_gpus(TO_TRAIN)
    remember()
    listen()


onsuccess:
    wait_for_command()
    updates.remember(made())


onerror:
    wait_for_command()


rule all:
    input:
        lambda wildcards: everybody(),
    localrule: True


include: "rules/dataset.smk"
include: "rules/sources.smk"
include: "rules/base.smk"
include: "rules/captions.smk"
include: "rules/masks.smk"
include: "rules/encode.smk"
include: "rules/train.smk"
include: "rules/sample.smk"
include: "rules/judge_inputs.smk"
include: "rules/validate.smk"
include: "rules/strengths.smk"
include: "rules/report.smk"
include: "rules/export.smk"
include: "rules/gallery.smk"
include: "rules/deliver.smk"
include: "rules/compare.smk"


# `snakemake mara` makes what `all` makes, for one character.
for name in WORKFLOW.names:
    if not workflow.is_rule(name):

        rule:
            name:
                name
            input:
                pages_and_file(name),
            localrule: True


if IN_STORAGE:
    link_storage(rules.lock_base.output.lock)
elif workflow.is_main_process and (lines := wrong_targets()):
    stop(lines)
