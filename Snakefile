# charloom: from an idea for a character to a LoRA file that draws it.
#
#   snakemake --cores 2 results/leyla/final.safetensors    one character
#   snakemake --cores 2 leyla                               the same, with the pages about it
#   snakemake --cores 2                                     every character of config/characters/
#   snakemake -n                                            what would be made, and why
from snakemake.utils import min_version

min_version("9.3")


include: "rules/common.smk"


wildcard_constraints:
    character=any_of(WORKFLOW.names),
    base=any_of(BASES),
    # An image of the plan, or <data set>/<image>.
    shot="[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)?",
    text="_[a-z0-9-]+",
    step="[0-9]{6}",
    prompt="[0-9]{2}",
    adapter="[a-z0-9][a-z0-9._-]*",
    quantization=any_of(knobs.choices("quantization.transformer")),


# A limit of GPUs is one for each host. On a cluster every job has a host of its own.
resource_scopes:
    gpu="local",


# Of interest to clusters alone: seconds of work, and the big download, for which computing nodes often have no way out.
localrules:
    lock_base,
    write_prompts,
    make_reference,
    make_source_image,
    crop_watermark,
    write_caption,
    lint_dataset,
    write_manifest,
    draw_grid,
    choose_checkpoint,
    write_report,
    export_final,


# Snakemake's limit of 100 job starts a second, which nothing here reaches, wakes the main loop once more a second for
# every job that has ended while others were ready. A batch of characters ends with a core of its own for that, and
# a longer timespan (--max-jobs-per-timespan) only delays both this and the exit. A limit of your own is kept.
onstart:
    limit = getattr(workflow.scheduler, "job_rate_limiter", None)
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


rule all:
    input:
        lambda wildcards: everybody(),
    localrule: True


include: "rules/dataset.smk"
include: "rules/base.smk"
include: "rules/encode.smk"
include: "rules/train.smk"
include: "rules/sample.smk"
include: "rules/validate.smk"
include: "rules/report.smk"
include: "rules/export.smk"


# `snakemake mara` makes what `all` makes, of one character.
for name in WORKFLOW.names:
    if not workflow.is_rule(name):

        rule:
            name:
                name
            input:
                pages_and_file(name),
            localrule: True


if workflow.is_main_process and (lines := wrong_targets()):
    stop(lines)
