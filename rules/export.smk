# The file to ship. Verifying it loads torch and diffusers, which takes a while; the report is written in the meantime.


rule verify_checkpoint:
    input:
        validation=RESULTS.validation,
        checkpoints=shippable_checkpoints,
        lock=lock_of,
    output:
        verification=RESULTS.verification,
    log:
        RESULTS.log("verify_checkpoint"),
    benchmark:
        RESULTS.benchmark("verify_checkpoint")
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(delivery.shipped),
    message:
        "{wildcards.character}: verify the checkpoint to ship"
    shell:
        "run verify_checkpoint {input.validation:q} --results results/{wildcards.character} "
        "--lock {input.lock:q} --settings {params.settings:q} --output {output.verification:q} --log {log:q}"


rule export_final:
    input:
        verification=RESULTS.verification,
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
        "run export_final {input.verification:q} --results results/{wildcards.character} "
        "--lock {input.lock:q} --settings {params.settings:q} --drawn {params.drawn:q} --output {output.lora:q} --log {log:q}"
