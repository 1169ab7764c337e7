# Images to latents, texts to embeddings. Whichever job first misses the store loads the model and does all of its
# sisters; the others link their file out of the store. The higher priority of images and captions lets them all
# be there by then.


rule encode_latents:
    input:
        image="results/{character}/dataset/{shot}.png",
        lock=lock_of,
    output:
        latents="results/{character}/latents/{shot}.safetensors",
    log:
        "results/{character}/logs/encode_latents/{shot}.log",
    benchmark:
        "results/{character}/benchmarks/encode_latents/{shot}.tsv"
    priority: 10
    conda:
        "../envs/charloom.yaml"
    threads: 64
    resources:
        gpu=1,
    params:
        settings=settings_of(slices.latents, "shot"),
        engine=untracked(slices.engine),
    message:
        "{wildcards.character}: latents of {wildcards.shot}"
    shell:
        "run encode_latents {input.image:q} --lock {input.lock:q} "
        "--settings {params.settings:q} --engine {params.engine:q} --threads {threads} "
        "--output {output.latents:q} --log {log:q}"


rule encode_caption:
    input:
        caption="results/{character}/dataset/{shot}.txt",
        lock=lock_of,
    output:
        embedding="results/{character}/embeddings/{shot}.safetensors",
    log:
        "results/{character}/logs/encode_caption/{shot}.log",
    benchmark:
        "results/{character}/benchmarks/encode_caption/{shot}.tsv"
    priority: 11
    conda:
        "../envs/charloom.yaml"
    threads: 64
    resources:
        gpu=1,
    params:
        settings=settings(slices.text_encoder),
        sisters=untracked(slices.other_texts),
        engine=untracked(slices.engine),
        swap=untracked(slices.swap),
    message:
        "{wildcards.character}: embedding of caption {wildcards.shot}"
    shell:
        "run encode_text --file {input.caption:q} --lock {input.lock:q} "
        "--sisters {params.sisters:q} --swap {params.swap:q} --settings {params.settings:q} "
        "--engine {params.engine:q} --threads {threads} --output {output.embedding:q} --log {log:q}"


# The caption with the class word in place of the trigger, for differential output preservation.
rule encode_class_caption:
    input:
        caption="results/{character}/dataset/{shot}.txt",
        lock=lock_of,
    output:
        embedding="results/{character}/embeddings/{shot}.class.safetensors",
    log:
        "results/{character}/logs/encode_class_caption/{shot}.log",
    benchmark:
        "results/{character}/benchmarks/encode_class_caption/{shot}.tsv"
    priority: 11
    conda:
        "../envs/charloom.yaml"
    threads: 64
    resources:
        gpu=1,
    params:
        settings=settings(slices.text_encoder),
        sisters=untracked(slices.other_texts),
        engine=untracked(slices.engine),
        swap=settings(slices.swap),
    message:
        "{wildcards.character}: embedding of class caption {wildcards.shot}"
    shell:
        "run encode_text --file {input.caption:q} --as-class --swap {params.swap:q} "
        "--lock {input.lock:q} --sisters {params.sisters:q} --settings {params.settings:q} "
        "--engine {params.engine:q} --threads {threads} --output {output.embedding:q} --log {log:q}"


rule encode_text:
    input:
        lock=lock_of,
    output:
        embedding="results/{character}/embeddings/{text}.safetensors",
    log:
        "results/{character}/logs/encode_text/{text}.log",
    benchmark:
        "results/{character}/benchmarks/encode_text/{text}.tsv"
    priority: 10
    conda:
        "../envs/charloom.yaml"
    threads: 64
    resources:
        gpu=1,
    params:
        text=settings_of(slices.text, "text"),
        settings=settings(slices.text_encoder),
        sisters=untracked(slices.other_texts),
        engine=untracked(slices.engine),
        swap=untracked(slices.swap),
    message:
        "{wildcards.character}: embedding of {wildcards.text}"
    shell:
        "run encode_text --text {params.text:q} --lock {input.lock:q} "
        "--sisters {params.sisters:q} --swap {params.swap:q} --settings {params.settings:q} "
        "--engine {params.engine:q} --threads {threads} --output {output.embedding:q} --log {log:q}"
