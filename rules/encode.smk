# Images to latents, texts to embeddings. The first job whose result is not in the store loads the model and encodes
# everything its sibling jobs will need; those then only link their file from the store. Images and captions have a
# higher priority, so that all of them exist by then. The process that encodes captions continues with the images.


rule encode_latents:
    input:
        image=RESULTS.image("{shot}"),
        lock=lock_of,
    output:
        latents=RESULTS.latents("{shot}"),
    log:
        RESULTS.log("encode_latents", "{shot}"),
    benchmark:
        RESULTS.benchmark("encode_latents", "{shot}")
    priority: 10
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
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
        caption=RESULTS.caption("{shot}"),
        lock=lock_of,
    output:
        embedding=RESULTS.embedding("{shot}"),
    log:
        RESULTS.log("encode_caption", "{shot}"),
    benchmark:
        RESULTS.benchmark("encode_caption", "{shot}")
    priority: 11
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=1,
    params:
        settings=settings(slices.text_encoder),
        siblings=untracked(slices.other_texts),
        latents=untracked(lambda c: slices.latents(c, c.image_names[0])),
        engine=untracked(slices.engine),
        swap=untracked(slices.swap),
    message:
        "{wildcards.character}: embedding of caption {wildcards.shot}"
    shell:
        "run encode_text --file {input.caption:q} --lock {input.lock:q} "
        "--siblings {params.siblings:q} --latents {params.latents:q} --swap {params.swap:q} "
        "--settings {params.settings:q} --engine {params.engine:q} --threads {threads} --output {output.embedding:q} --log {log:q}"


# The caption with the class word in place of the trigger, for differential output preservation.
rule encode_class_caption:
    input:
        caption=RESULTS.caption("{shot}"),
        lock=lock_of,
    output:
        embedding=RESULTS.class_embedding("{shot}"),
    log:
        RESULTS.log("encode_class_caption", "{shot}"),
    benchmark:
        RESULTS.benchmark("encode_class_caption", "{shot}")
    priority: 11
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=1,
    params:
        settings=settings(slices.text_encoder),
        siblings=untracked(slices.other_texts),
        engine=untracked(slices.engine),
        swap=settings(slices.swap),
    message:
        "{wildcards.character}: embedding of class caption {wildcards.shot}"
    shell:
        "run encode_text --file {input.caption:q} --as-class --swap {params.swap:q} "
        "--lock {input.lock:q} --siblings {params.siblings:q} --settings {params.settings:q} "
        "--engine {params.engine:q} --threads {threads} --output {output.embedding:q} --log {log:q}"


rule encode_text:
    input:
        lock=lock_of,
    output:
        embedding=RESULTS.embedding("{text}"),
    log:
        RESULTS.log("encode_text", "{text}"),
    benchmark:
        RESULTS.benchmark("encode_text", "{text}")
    priority: 10
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=1,
    params:
        text=settings_of(slices.text, "text"),
        settings=settings(slices.text_encoder),
        siblings=untracked(slices.other_texts),
        engine=untracked(slices.engine),
        swap=untracked(slices.swap),
    message:
        "{wildcards.character}: embedding of {wildcards.text}"
    shell:
        "run encode_text --text {params.text:q} --lock {input.lock:q} "
        "--siblings {params.siblings:q} --swap {params.swap:q} --settings {params.settings:q} "
        "--engine {params.engine:q} --threads {threads} --output {output.embedding:q} --log {log:q}"
