# Pictures from generators: an API, a ComfyUI server, a pipeline on this machine; and their reference. The first job
# whose picture is not in the store gets all that are missing, one after the other, and stores each on arrival. For
# characters with a generator these rules take precedence over make_reference and make_source_image.


ruleorder: draw_reference > generate_reference > make_reference
ruleorder: draw_picture > generate_picture > make_source_image


# Drawn by the base, like the previews of step 0.
rule draw_reference:
    input:
        ready=generation_ready,
        embedding=RESULTS.prompt_embedding(REFERENCE),
        empty=RESULTS.embedding("_empty"),
        lock=lock_of,
    output:
        image=RESULTS.reference,
    log:
        RESULTS.log("draw_reference"),
    benchmark:
        RESULTS.benchmark("draw_reference")
    wildcard_constraints:
        character=generated_by(lambda one: one.generation.base_draws),
    priority: 50
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=1,
    params:
        settings=settings(picture_slices.reference),
        engine=untracked(slices.engine),
        name=REFERENCE,
    message:
        "{wildcards.character}: the base draws the reference"
    shell:
        "run sample_checkpoint --results results/{wildcards.character} --lock {input.lock:q} "
        "--step 0 --prompt {params.name} --settings {params.settings:q} "
        "--engine {params.engine:q} --threads {threads} --output {output.image:q} --log {log:q}"


rule generate_reference:
    input:
        ready=generation_ready,
    output:
        image=RESULTS.reference,
    log:
        RESULTS.log("generate_reference"),
    benchmark:
        RESULTS.benchmark("generate_reference")
    wildcard_constraints:
        character=generated_by(lambda one: one.generation.reference == GENERATOR),
    priority: 50
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=picture_settings,
        how=untracked(picture_slices.how),
        name=REFERENCE,
        purchases=lambda wildcards: WORK.purchases(wildcards.character).as_posix(),
    message:
        "{wildcards.character}: neutral reference"
    shell:
        "run generate_picture --name {params.name} --settings {params.settings:q} --how {params.how:q} "
        "--purchases {params.purchases:q} --output {output.image:q} --log {log:q}"


rule generate_picture:
    input:
        ready=generation_ready,
        reference=RESULTS.reference,
        judge=face_judge,
    output:
        image=RESULTS.source("{shot}"),
        record=RESULTS.source_record("{shot}"),
    log:
        RESULTS.log("generate_picture", "{shot}"),
    benchmark:
        RESULTS.benchmark("generate_picture", "{shot}")
    wildcard_constraints:
        character=generated_by(lambda one: not on_gpu(one)),
        shot=OF_PLAN,
    priority: 40
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=picture_settings,
        siblings=untracked(picture_slices.shots),
        how=untracked(picture_slices.how),
        judge=face_instruments,
        probe=content_of(face_probe),
        purchases=lambda wildcards: WORK.purchases(wildcards.character).as_posix(),
    message:
        "{wildcards.character}: picture {wildcards.shot}"
    shell:
        "run generate_picture --name {wildcards.shot} --reference {input.reference:q} "
        "--settings {params.settings:q} --siblings {params.siblings:q} --how {params.how:q} "
        "--judge {params.judge:q} --purchases {params.purchases:q} --threads {threads} "
        "--output {output.image:q} --record {output.record:q} --log {log:q}"


# The same with a pipeline on this machine.
use rule generate_picture as draw_picture with:
    log:
        RESULTS.log("draw_picture", "{shot}"),
    benchmark:
        RESULTS.benchmark("draw_picture", "{shot}")
    wildcard_constraints:
        character=generated_by(on_gpu),
        shot=OF_PLAN,
    threads: HEAVY_THREADS
    resources:
        gpu=1,
    params:
        settings=picture_settings,
        siblings=untracked(picture_slices.shots),
        how=untracked(picture_slices.how),
        judge=face_instruments,
        probe=content_of(face_probe),
        model=model_content,
        purchases=lambda wildcards: WORK.purchases(wildcards.character).as_posix(),
