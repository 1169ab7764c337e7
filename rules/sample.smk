# Previews: every checkpoint draws every sample prompt. One process draws all that are missing. If the trainer has drawn
# them while training, a job here only links what is stored, and many such jobs run side by side.


rule sample_checkpoint:
    input:
        checkpoint=sampled_checkpoint,
        embedding=RESULTS.prompt_embedding("{prompt}"),
        empty=negative_embedding,
        lock=lock_of,
    output:
        image=RESULTS.sample("{step}", "{prompt}"),
    log:
        RESULTS.log("sample_checkpoint", "{step}-{prompt}"),
    benchmark:
        RESULTS.benchmark("sample_checkpoint", "{step}-{prompt}")
    priority: 4
    conda:
        "../envs/charloom.yaml"
    threads: drawing_threads
    resources:
        gpu=drawing_gpus,
    params:
        settings=settings_of(slices.sample, "prompt"),
        siblings=untracked(slices.other_samples),
        engine=untracked(slices.engine),
    message:
        "{wildcards.character}: step {wildcards.step} draws prompt {wildcards.prompt}"
    shell:
        "run sample_checkpoint --results results/{wildcards.character} --lock {input.lock:q} "
        "--step {wildcards.step} --prompt {wildcards.prompt} --settings {params.settings:q} "
        "--siblings {params.siblings:q} --engine {params.engine:q} --threads {threads} "
        "--output {output.image:q} --log {log:q}"


rule draw_grid:
    input:
        images=files_of(
            RESULTS.sample("{step}", "{name}"),
            lambda c: c.prompt_names,
        ),
    output:
        grid=report(
            RESULTS.grid("{step}"),
            caption="captions/grid.rst",
            category="Previews",
            labels={"character": "{character}", "what": "step {step}"},
        ),
    log:
        RESULTS.log("draw_grid", "{step}"),
    benchmark:
        RESULTS.benchmark("draw_grid", "{step}")
    priority: 3
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(slices.grid),
        samples=lambda wildcards, output: Path(output.grid).parent.as_posix(),
    message:
        "{wildcards.character}: grid of step {wildcards.step}"
    shell:
        "run draw_grid --samples {params.samples:q} --step {wildcards.step} "
        "--settings {params.settings:q} --output {output.grid:q} 2> {log:q}"
