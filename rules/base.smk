# The base model: a lock file with the digests of its files, and its transformer prepared for training.


rule lock_base:
    output:
        lock=WORK.lock("{base}"),
    log:
        WORK.log("lock_base", "{base}"),
    benchmark:
        WORK.benchmark("lock_base", "{base}")
    priority: 60
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=lambda wildcards: value(slices.base_lock(BASES[wildcards.base])),
        content=base_content,
    message:
        "base {wildcards.base}: lock its files"
    shell:
        "run lock_base --settings {params.settings:q} "
        "--output {output.lock:q} --log {log:q}"


rule prepare_base:
    input:
        lock=WORK.lock("{base}"),
    output:
        transformer=WORK.prepared(PREPARED),
        record=WORK.prepared(PREPARED, ".json"),
    log:
        WORK.log("prepare_base", PREPARED),
    benchmark:
        WORK.benchmark("prepare_base", PREPARED)
    priority: 10
    conda:
        "../envs/charloom.yaml"
    # On a GPU it works weight by weight, with little memory, so it claims no `gpu`: texts and pictures are encoded at
    # the same time.
    threads: HEAVY_THREADS
    params:
        settings=lambda wildcards: slices.prepared_base(
            wildcards.adapter, wildcards.quantization
        ),
    message:
        "base {wildcards.base}: prepare for training (adapter {wildcards.adapter}, {wildcards.quantization})"
    shell:
        "run prepare_base {input.lock:q} --settings {params.settings:q} --threads {threads} "
        "--output {output.transformer:q} --record {output.record:q} --log {log:q}"
