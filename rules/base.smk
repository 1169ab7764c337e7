# The base model: which bytes it is (a small lock file), and its transformer made ready for training.


rule lock_base:
    output:
        lock="work/bases/{base}.lock.json",
    log:
        "work/logs/lock_base/{base}.log",
    benchmark:
        "work/benchmarks/lock_base/{base}.tsv"
    priority: 60
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=lambda wildcards: value(slices.base_lock(BASES[wildcards.base])),
        content=base_content,
    message:
        "base {wildcards.base}: digests of its files"
    shell:
        "run lock_base --settings {params.settings:q} "
        "--output {output.lock:q} --log {log:q}"


rule prepare_base:
    input:
        lock="work/bases/{base}.lock.json",
    output:
        transformer="work/bases/{base}-{adapter}-{quantization}.safetensors",
        record="work/bases/{base}-{adapter}-{quantization}.json",
    log:
        "work/logs/prepare_base/{base}-{adapter}-{quantization}.log",
    benchmark:
        "work/benchmarks/prepare_base/{base}-{adapter}-{quantization}.tsv"
    priority: 10
    conda:
        "../envs/charloom.yaml"
    threads: 64
    params:
        settings=lambda wildcards: slices.prepared_base(
            wildcards.adapter, wildcards.quantization
        ),
    message:
        "base {wildcards.base}: merge training adapter {wildcards.adapter}"
    shell:
        "run prepare_base {input.lock:q} --settings {params.settings:q} "
        "--output {output.transformer:q} --record {output.record:q} --log {log:q}"
