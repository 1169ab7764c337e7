# The file to ship.


rule export_final:
    input:
        validation=RESULTS.validation,
        report=RESULTS.report,
        checkpoints=shippable_checkpoints,
        samples=lambda wildcards: delivery.thumbnails(person(wildcards.character)),
        lock=lock_of,
    output:
        lora=RESULTS.final,
    log:
        RESULTS.log("export_final"),
    benchmark:
        RESULTS.benchmark("export_final")
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_with_base(delivery.final),
        drawn=untracked(delivery.drawn),
    message:
        "{wildcards.character}: the LoRA to ship"
    shell:
        "run export_final {input.validation:q} --results results/{wildcards.character} "
        "--lock {input.lock:q} --settings {params.settings:q} --drawn {params.drawn:q} --output {output.lora:q} --log {log:q}"
