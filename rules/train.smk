# Training as a chain of segments, one per checkpoint; progress is kept in the store. The process that trains also draws
# each checkpoint's previews, for those prompts whose embeddings exist. Prompts are hints, not inputs: changing one
# never trains again.


rule train_segment:
    input:
        manifest=RESULTS.manifest,
        latents=files_of(RESULTS.latents("{name}"), lambda c: c.image_names),
        embeddings=files_of(
            RESULTS.embedding("{name}"),
            lambda c: c.image_names,
        ),
        masks=files_of(RESULTS.mask("{name}"), mask_slices.masked),
        variants=files_of(RESULTS.embedding("{name}"), slices.variants),
        classes=files_of(
            RESULTS.class_embedding("{name}"),
            slices.class_captions,
        ),
        lock=lock_of,
        transformer=prepared(".safetensors"),
        record=prepared(".json"),
        previous=previous_checkpoint,
    output:
        checkpoint=RESULTS.checkpoint("{step}"),
    log:
        RESULTS.log("train_segment", "{step}"),
    benchmark:
        RESULTS.benchmark("train_segment", "{step}")
    priority: TRAINING
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    # Resources rather than params, because resources never make a job run again: how far one start of the trainer may
    # run ahead, the save interval, the last step, and which attempt at the job this is, here and on a cluster.
    resources:
        gpu=training_gpus,
        until=run_until,
        every=lambda wildcards: person(wildcards.character).recipe["save"]["every"],
        last=lambda wildcards: person(wildcards.character).saved_steps[-1],
        attempt=lambda wildcards, attempt: attempt,
    params:
        settings=settings(training_slice),
        init=path_of(first_lora),
        siblings=untracked(training.drawn_on_the_way),
        engine=untracked(slices.engine),
    message:
        "{wildcards.character}: train to step {wildcards.step}"
    shell:
        "run train_segment {input.manifest:q} --lock {input.lock:q} "
        "--transformer {input.transformer:q} --record {input.record:q} --settings {params.settings:q} "
        "--step {wildcards.step} --until {resources.until} --every {resources.every} --last {resources.last} --attempt {resources.attempt} "
        "--siblings {params.siblings:q} --init {params.init:q} --engine {params.engine:q} --threads {threads} --output {output.checkpoint:q} --log {log:q}"
