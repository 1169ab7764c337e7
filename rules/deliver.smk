# What leaves the workflow: ComfyUI workflows, and the bundle with everything in it.
from charloom.deliver.comfyui import WORKFLOWS


rule write_comfyui:
    output:
        workflows=[RESULTS.comfyui(name) for name in WORKFLOWS],
        api=[RESULTS.comfyui_api(name) for name in WORKFLOWS],
    log:
        RESULTS.log("write_comfyui"),
    benchmark:
        RESULTS.benchmark("write_comfyui")
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_with_base(slices.comfyui),
    message:
        "{wildcards.character}: ComfyUI workflows"
    shell:
        "run write_comfyui --results results/{wildcards.character} "
        "--settings {params.settings:q} --log {log:q}"
