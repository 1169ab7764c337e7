# The file to ship.


rule export_final:
    input:
        validation="results/{character}/validation.json",
        report="results/{character}/report.html",
        checkpoints=shippable_checkpoints,
        lock=lock_of,
    output:
        lora="results/{character}/final.safetensors",
    log:
        "results/{character}/logs/export_final.log",
    benchmark:
        "results/{character}/benchmarks/export_final.tsv"
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(slices.final),
    message:
        "{wildcards.character}: the LoRA to ship"
    shell:
        "run export_final {input.validation:q} --checkpoints results/{wildcards.character}/checkpoints "
        "--lock {input.lock:q} --settings {params.settings:q} --output {output.lora:q} --log {log:q}"
