# Experiments on the miniature (config/experiments/): a workflow of its own, so that the main one has nothing to plan.
#
#   snakemake -s rules/experiments.smk --cores 2 results/experiments/watermark/summary.md     one experiment
#   snakemake -s rules/experiments.smk --cores 16                                              all of them
#
# A job trains one arm with one seed, or takes a training that another arm has made already, and reads what it draws.
# benchmarks/experiments.py does the same in few processes, which is faster where there are many cores.
import sys
from pathlib import Path
from shlex import quote

from snakemake.utils import min_version

min_version("9.3")

from charloom.core.canonical import canonical_json
from charloom.core.errors import UserError
from charloom.experiments import design

SCRIPTS = Path(workflow.basedir).parent / "scripts"
READER = "benchmarks/results/reader.safetensors"
FOLDER = "results/experiments/{experiment}"
try:
    EXPERIMENTS = {name: design.read(name) for name in design.names()}
except UserError as error:
    sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))

PREFIX = f'run() {{ name="$1"; shift; {quote(sys.executable)} {quote(str(SCRIPTS))}/"$name".py "$@"; }}; '
shell.prefix(PREFIX.replace("{", "{{").replace("}", "}}"))


wildcard_constraints:
    experiment="|".join(EXPERIMENTS),
    arm="[a-z0-9][a-z0-9.-]*",
    character="[a-z0-9_-]+",
    seed="[0-9]+",


def runs_of(wildcards):
    """The lines that the table of an experiment is made from."""
    one = EXPERIMENTS[wildcards.experiment]
    return [
        f"results/experiments/{one.name}/runs/{arm}/{character}-{seed}.json"
        for arm in one.arms
        for character in one.characters
        for seed in one.seeds
    ]


def arm_of(wildcards):
    """What an arm changes; its change makes the job run again."""
    one = EXPERIMENTS[wildcards.experiment]
    return canonical_json({"recipe": one.recipe, "arm": one.arms[wildcards.arm]})


rule all_experiments:
    input:
        expand("results/experiments/{experiment}/summary.md", experiment=EXPERIMENTS),
    localrule: True


rule run_arm:
    input:
        reader=READER,
    output:
        line=f"{FOLDER}/runs/{{arm}}/{{character}}-{{seed}}.json",
    log:
        f"{FOLDER}/logs/run_arm/{{arm}}-{{character}}-{{seed}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/run_arm/{{arm}}-{{character}}-{{seed}}.tsv"
    conda:
        "../envs/charloom.yaml"
    threads: 2
    params:
        arm=arm_of,
    message:
        "{wildcards.experiment}: {wildcards.arm}, {wildcards.character}, seed {wildcards.seed}"
    shell:
        "run run_arm {wildcards.experiment} --arm {wildcards.arm} --character {wildcards.character} "
        "--seed {wildcards.seed} --reader {input.reader:q} --threads {threads} "
        "--output {output.line:q} 2> {log:q}"


rule tabulate_experiment:
    input:
        lines=runs_of,
    output:
        table=f"{FOLDER}/table.csv",
        summary=f"{FOLDER}/summary.md",
        plot=f"{FOLDER}/plot.png",
    log:
        f"{FOLDER}/logs/tabulate_experiment.log",
    benchmark:
        f"{FOLDER}/benchmarks/tabulate_experiment.tsv"
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        claims=lambda wildcards: [
            str(claim) for claim in EXPERIMENTS[wildcards.experiment].claims
        ],
        measures=lambda wildcards: EXPERIMENTS[wildcards.experiment].measures,
    message:
        "{wildcards.experiment}: table and plot"
    shell:
        "run tabulate_experiment {wildcards.experiment} {input.lines:q} --table {output.table:q} "
        "--summary {output.summary:q} --plot {output.plot:q} 2> {log:q}"
