# Previews: every checkpoint draws every sample prompt. One process serves all that are missing.


rule sample_checkpoint:
    input:
        checkpoint=sampled_checkpoint,
        embedding="results/{character}/embeddings/_prompt-{prompt}.safetensors",
        empty="results/{character}/embeddings/_empty.safetensors",
        lock=lock_of,
    output:
        image="results/{character}/samples/step-{step}/{prompt}.png",
    log:
        "results/{character}/logs/sample_checkpoint/{step}-{prompt}.log",
    benchmark:
        "results/{character}/benchmarks/sample_checkpoint/{step}-{prompt}.tsv"
    priority: 4
    conda:
        "../envs/charloom.yaml"
    threads: 64
    resources:
        gpu=1,
    params:
        settings=settings_of(slices.sample, "prompt"),
        sisters=untracked(slices.other_samples),
        engine=untracked(slices.engine),
    message:
        "{wildcards.character}: step {wildcards.step} draws prompt {wildcards.prompt}"
    shell:
        "run sample_checkpoint --results results/{wildcards.character} --lock {input.lock:q} "
        "--step {wildcards.step} --prompt {wildcards.prompt} --settings {params.settings:q} "
        "--sisters {params.sisters:q} --engine {params.engine:q} --threads {threads} "
        "--output {output.image:q} --log {log:q}"


rule draw_grid:
    input:
        images=files_of(
            "results/{character}/samples/step-{step}/{name}.png",
            lambda c: c.prompt_names,
        ),
    output:
        grid="results/{character}/samples/step-{step}/grid.png",
    log:
        "results/{character}/logs/draw_grid/{step}.log",
    benchmark:
        "results/{character}/benchmarks/draw_grid/{step}.tsv"
    priority: 3
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(slices.grid),
    message:
        "{wildcards.character}: grid of step {wildcards.step}"
    shell:
        "run draw_grid --samples results/{wildcards.character}/samples/step-{wildcards.step} --step {wildcards.step} "
        "--settings {params.settings:q} --output {output.grid:q} 2> {log:q}"
