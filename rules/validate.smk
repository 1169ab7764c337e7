# Scores of every sampled checkpoint, and the choice of the one to ship, with reasons.


rule score_checkpoint:
    input:
        samples=files_of(
            RESULTS.sample("{step}", "{name}"),
            lambda c: c.prompt_names,
        ),
        # Lists the images, so that they need not be inputs of every step.
        manifest="results/{character}/dataset.json",
    output:
        scores=RESULTS.scores("{step}"),
    log:
        "results/{character}/logs/score_checkpoint/{step}.log",
    benchmark:
        "results/{character}/benchmarks/score_checkpoint/{step}.tsv"
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: 64
    params:
        settings=settings_with_base(slices.score),
        weights=path_of(judge_weights),
        content=content_of(judge_weights),
    message:
        "{wildcards.character}: scores of step {wildcards.step}"
    shell:
        "run score_checkpoint --results results/{wildcards.character} --weights {params.weights:q} "
        "--step {wildcards.step} --settings {params.settings:q} "
        "--threads {threads} --output {output.scores:q} --log {log:q}"


rule choose_checkpoint:
    input:
        scores=files_of(
            RESULTS.scores("{name}"),
            step_names(lambda c: c.sampled_steps),
        ),
    output:
        validation="results/{character}/validation.json",
        table=report(
            "results/{character}/scores.csv",
            caption="captions/table.rst",
            category="Tables",
            labels={"character": "{character}", "what": "scores"},
        ),
    log:
        "results/{character}/logs/choose_checkpoint.log",
    benchmark:
        "results/{character}/benchmarks/choose_checkpoint.tsv"
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(slices.choice),
    message:
        "{wildcards.character}: choice of the checkpoint"
    shell:
        "run choose_checkpoint --scores results/{wildcards.character}/scores --settings {params.settings:q} "
        "--validation {output.validation:q} --table {output.table:q} --log {log:q}"
