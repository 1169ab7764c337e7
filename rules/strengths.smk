# The strength sweep: the chosen checkpoint at several strengths, and a recommended one.


rule sample_strength:
    input:
        validation=RESULTS.validation,
        checkpoints=shippable_checkpoints,
        embedding=RESULTS.prompt_embedding("{prompt}"),
        empty=negative_embedding,
        lock=lock_of,
    output:
        image=RESULTS.strength("{strength}", "{prompt}"),
    log:
        RESULTS.log("sample_strength", "{strength}-{prompt}"),
    benchmark:
        RESULTS.benchmark("sample_strength", "{strength}-{prompt}")
    priority: 3
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=1,
    params:
        settings=settings_of(slices.strength, "prompt"),
        siblings=untracked(slices.other_strengths),
        engine=untracked(slices.engine),
    message:
        "{wildcards.character}: strength {wildcards.strength} draws prompt {wildcards.prompt}"
    shell:
        "run sample_strength --results results/{wildcards.character} --validation {input.validation:q} "
        "--lock {input.lock:q} --strength {wildcards.strength} --prompt {wildcards.prompt} "
        "--settings {params.settings:q} --siblings {params.siblings:q} --engine {params.engine:q} "
        "--threads {threads} --output {output.image:q} --log {log:q}"


rule score_strengths:
    input:
        images=strength_pictures,
        validation=RESULTS.validation,
        # Lists the images, so that they need not be inputs.
        manifest=RESULTS.manifest,
        pictures=pictures_to_send,
        judge=own_judge,
    output:
        strengths=RESULTS.strengths,
        strip=RESULTS.strength_strip,
    log:
        RESULTS.log("score_strengths"),
    benchmark:
        RESULTS.benchmark("score_strengths")
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=judge_gpus,
    params:
        settings=settings_with_base(slices.strengths),
        weights=path_of(judge_weights),
        content=content_of(judge_weights),
        judge=lambda wildcards, input: arguments.written(input.get("judge")),
    message:
        "{wildcards.character}: scores by strength"
    shell:
        "run score_strengths --results results/{wildcards.character} --validation {input.validation:q} "
        "--weights {params.weights:q} --judge {params.judge:q} --settings {params.settings:q} --threads {threads} "
        "--output {output.strengths:q} --strip {output.strip:q} --log {log:q}"
