# From the character file to a checked data set: prompt sheet, images, crops, captions.


rule write_prompts:
    output:
        html="results/{character}/prompts.html",
        txt="results/{character}/prompts.txt",
    log:
        "results/{character}/logs/write_prompts.log",
    benchmark:
        "results/{character}/benchmarks/write_prompts.tsv"
    priority: 30
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(slices.prompt_sheet),
    message:
        "{wildcards.character}: prompt sheet"
    shell:
        "run write_prompts --settings {params.settings:q} "
        "--html {output.html:q} --txt {output.txt:q} 2> {log:q}"


rule make_reference:
    input:
        source_inputs,
    output:
        image="results/{character}/reference.png",
    log:
        "results/{character}/logs/make_reference.log",
    benchmark:
        "results/{character}/benchmarks/make_reference.tsv"
    priority: 50
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=lambda wildcards: value(
            slices.source_image(person(wildcards.character), None)
        ),
        file=path_of(own_image),
        content=content_of(own_image),
    message:
        "{wildcards.character}: neutral reference"
    shell:
        "run make_source_image --user-file {params.file:q} --settings {params.settings:q} "
        "--output {output.image:q} 2> {log:q}"


rule make_source_image:
    input:
        source_inputs,
    output:
        image="results/{character}/source/{shot}.png",
    log:
        "results/{character}/logs/make_source_image/{shot}.log",
    benchmark:
        "results/{character}/benchmarks/make_source_image/{shot}.tsv"
    priority: 40
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_of(slices.source_image, "shot"),
        file=path_of(own_image),
        content=content_of(own_image),
    message:
        "{wildcards.character}: image {wildcards.shot}"
    shell:
        "run make_source_image --user-file {params.file:q} --settings {params.settings:q} "
        "--output {output.image:q} 2> {log:q}"


rule crop_watermark:
    input:
        image="results/{character}/source/{shot}.png",
    output:
        image="results/{character}/dataset/{shot}.png",
    log:
        "results/{character}/logs/crop_watermark/{shot}.log",
    benchmark:
        "results/{character}/benchmarks/crop_watermark/{shot}.tsv"
    priority: 30
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_of(slices.crop, "shot"),
    message:
        "{wildcards.character}: crop {wildcards.shot}"
    shell:
        "run crop_watermark {input.image:q} --settings {params.settings:q} "
        "--output {output.image:q} 2> {log:q}"


rule write_caption:
    output:
        caption="results/{character}/dataset/{shot}.txt",
    log:
        "results/{character}/logs/write_caption/{shot}.log",
    benchmark:
        "results/{character}/benchmarks/write_caption/{shot}.tsv"
    priority: 30
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_of(slices.caption, "shot"),
        file=path_of(own_caption),
        content=content_of(own_caption),
    message:
        "{wildcards.character}: caption {wildcards.shot}"
    shell:
        "run write_caption --user-file {params.file:q} --settings {params.settings:q} "
        "--output {output.caption:q} 2> {log:q}"


rule lint_dataset:
    input:
        images=files_of(
            "results/{character}/dataset/{name}.png", lambda c: c.image_names
        ),
        captions=files_of(
            "results/{character}/dataset/{name}.txt", lambda c: c.image_names
        ),
    output:
        findings="results/{character}/lint.json",
    log:
        "results/{character}/logs/lint_dataset.log",
    benchmark:
        "results/{character}/benchmarks/lint_dataset.tsv"
    priority: 20
    conda:
        "../envs/charloom.yaml"
    threads: 2
    params:
        settings=settings_with_base(slices.lint),
    message:
        "{wildcards.character}: check of the data set"
    shell:
        "run lint_dataset --dataset results/{wildcards.character}/dataset "
        "--settings {params.settings:q} --threads {threads} "
        "--output {output.findings:q} --log {log:q}"


rule write_manifest:
    input:
        lint="results/{character}/lint.json",
        images=files_of(
            "results/{character}/dataset/{name}.png", lambda c: c.image_names
        ),
        captions=files_of(
            "results/{character}/dataset/{name}.txt", lambda c: c.image_names
        ),
        latents=files_of(
            "results/{character}/latents/{name}.safetensors", lambda c: c.image_names
        ),
        embeddings=files_of(
            "results/{character}/embeddings/{name}.safetensors",
            lambda c: c.image_names,
        ),
        variants=files_of(
            "results/{character}/embeddings/{name}.safetensors", slices.variants
        ),
        classes=files_of(
            "results/{character}/embeddings/{name}.class.safetensors",
            slices.class_captions,
        ),
    output:
        manifest="results/{character}/dataset.json",
    log:
        "results/{character}/logs/write_manifest.log",
    benchmark:
        "results/{character}/benchmarks/write_manifest.tsv"
    priority: 10
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(slices.manifest),
    message:
        "{wildcards.character}: manifest of the data set"
    shell:
        "run write_manifest --results results/{wildcards.character} "
        "--settings {params.settings:q} --output {output.manifest:q} 2> {log:q}"
