# Scores of every sampled checkpoint, and the choice of the one to ship, with reasons.


rule lock_judge:
    output:
        lock=WORK.judge_lock("{base}"),
    log:
        WORK.log("lock_judge", "{base}"),
    benchmark:
        WORK.benchmark("lock_judge", "{base}")
    priority: 60
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=lambda wildcards: value(judge_slices.judge_lock(BASES[wildcards.base])),
    message:
        "base {wildcards.base}: lock the instruments that judge"
    shell:
        "run lock_judge --settings {params.settings:q} --output {output.lock:q} --log {log:q}"


rule study_references:
    input:
        # Lists the images, so that they need not be inputs.
        manifest=RESULTS.manifest,
        pictures=pictures_to_send,
        lock=judge_lock,
        base_samples=base_samples,
    output:
        judge=RESULTS.judge,
    log:
        RESULTS.log("study_references"),
    benchmark:
        RESULTS.benchmark("study_references")
    priority: 5
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=1,
    params:
        settings=settings(judge_slices.judge),
    message:
        "{wildcards.character}: who judges the previews"
    shell:
        "run study_references --results results/{wildcards.character} --lock {input.lock:q} "
        "--base-samples {input.base_samples:q} --settings {params.settings:q} "
        "--threads {threads} --output {output.judge:q} --log {log:q}"


rule score_checkpoint:
    input:
        samples=files_of(
            RESULTS.sample("{step}", "{name}"),
            lambda c: c.prompt_names,
        ),
        # Lists the images, so that they need not be inputs of every step.
        manifest=RESULTS.manifest,
        pictures=pictures_to_send,
        judge=own_judge,
        without=without_style,
    output:
        scores=RESULTS.scores("{step}"),
    log:
        RESULTS.log("score_checkpoint", "{step}"),
    benchmark:
        RESULTS.benchmark("score_checkpoint", "{step}")
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=judge_gpus,
    params:
        settings=settings_with_base(slices.score),
        weights=path_of(judge_weights),
        content=content_of(judge_weights),
        judge=lambda wildcards, input: arguments.written(input.get("judge")),
    message:
        "{wildcards.character}: scores of step {wildcards.step}"
    shell:
        "run score_checkpoint --results results/{wildcards.character} --weights {params.weights:q} "
        "--judge {params.judge:q} --step {wildcards.step} --settings {params.settings:q} "
        "--threads {threads} --output {output.scores:q} --log {log:q}"


rule sample_drift:
    input:
        checkpoint=sampled_checkpoint,
        embedding=lambda wildcards: results(wildcards.character).prompt_embedding(
            drift.embedding(wildcards.drift)
        ),
        empty=negative_embedding,
        lock=lock_of,
    output:
        image=RESULTS.drift_sample("{step}", "{drift}"),
    log:
        RESULTS.log("sample_drift", "{step}-{drift}"),
    benchmark:
        RESULTS.benchmark("sample_drift", "{step}-{drift}")
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=1,
    params:
        settings=settings_of(judge_slices.drift_sample, "drift"),
        siblings=untracked(judge_slices.other_drift),
        engine=untracked(slices.engine),
        prompt=lambda wildcards: drift.embedding(wildcards.drift),
    message:
        "{wildcards.character}: step {wildcards.step} draws {wildcards.drift}"
    shell:
        "run sample_checkpoint --results results/{wildcards.character} --lock {input.lock:q} "
        "--step {wildcards.step} --prompt {params.prompt} --settings {params.settings:q} "
        "--siblings {params.siblings:q} --engine {params.engine:q} --threads {threads} "
        "--output {output.image:q} --log {log:q}"


rule score_drift:
    input:
        samples=drift_samples,
        manifest=RESULTS.manifest,
        pictures=pictures_to_send,
        judge=own_judge,
    output:
        scores=RESULTS.drift("{step}"),
    log:
        RESULTS.log("score_drift", "{step}"),
    benchmark:
        RESULTS.benchmark("score_drift", "{step}")
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=judge_gpus,
    params:
        settings=settings_with_base(judge_slices.drift_scores),
        weights=path_of(judge_weights),
        content=content_of(judge_weights),
        judge=lambda wildcards, input: arguments.written(input.get("judge")),
    message:
        "{wildcards.character}: drift of step {wildcards.step}"
    shell:
        "run score_drift --results results/{wildcards.character} --weights {params.weights:q} "
        "--judge {params.judge:q} --step {wildcards.step} --settings {params.settings:q} "
        "--threads {threads} --output {output.scores:q} --log {log:q}"


rule choose_checkpoint:
    input:
        scores=files_of(
            RESULTS.scores("{name}"),
            step_names(lambda c: c.sampled_steps),
        ),
        drift=files_of(RESULTS.drift("{name}"), step_names(drift.steps)),
    output:
        validation=RESULTS.validation,
        table=report(
            RESULTS.score_table,
            caption="captions/table.rst",
            category="Tables",
            labels={"character": "{character}", "what": "scores"},
        ),
    log:
        RESULTS.log("choose_checkpoint"),
    benchmark:
        RESULTS.benchmark("choose_checkpoint")
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(slices.choice),
    message:
        "{wildcards.character}: choice of the checkpoint"
    shell:
        "run choose_checkpoint --scores results/{wildcards.character}/scores "
        "--drift results/{wildcards.character}/drift --settings {params.settings:q} "
        "--validation {output.validation:q} --table {output.table:q} --log {log:q}"
