# charloom: from an idea for a character to a LoRA file that draws it.
#
#   snakemake --cores 2 results/leyla/final.safetensors    one character
#   snakemake --cores 2                                     every character of config/characters/
#   snakemake -n                                            what would be made, and why
from snakemake.utils import min_version

min_version("9.3")


include: "rules/common.smk"


wildcard_constraints:
    character=any_of(CHARACTERS),
    base=any_of(BASES),
    # An image of the plan, or <data set>/<image>.
    shot="[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)?",
    text="_[a-z0-9-]+",
    step="[0-9]{6}",
    prompt="[0-9]{2}",
    adapter="[a-z0-9][a-z0-9._-]*",
    quantization="float8|int8|nf4|bf16|none",


rule all:
    input:
        final=expand("results/{character}/final.safetensors", character=CHARACTERS),
        report=expand("results/{character}/report.html", character=CHARACTERS),
        prompts=expand("results/{character}/prompts.html", character=CHARACTERS),
    localrule: True


include: "rules/dataset.smk"
include: "rules/base.smk"
include: "rules/encode.smk"
include: "rules/train.smk"
include: "rules/sample.smk"
include: "rules/validate.smk"
include: "rules/report.smk"
include: "rules/export.smk"
