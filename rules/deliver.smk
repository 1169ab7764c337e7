# What leaves the workflow: ComfyUI workflows, and the bundle with everything in it.


rule write_comfyui:
    input:
        lock=lock_of,
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
        settings=settings_with_base(delivery.comfyui),
    message:
        "{wildcards.character}: ComfyUI workflows"
    shell:
        "run write_comfyui --results results/{wildcards.character} --lock {input.lock:q} "
        "--settings {params.settings:q} --log {log:q}"


rule make_bundle:
    input:
        lora=RESULTS.final,
        report=RESULTS.report,
        comparison=RESULTS.comparison,
        page=RESULTS.prompt_page,
        sheet=RESULTS.prompt_text,
        manifest=RESULTS.manifest,
        images=files_of(RESULTS.image("{name}"), lambda c: c.image_names),
        captions=files_of(RESULTS.caption("{name}"), lambda c: c.image_names),
        masks=files_of(RESULTS.mask("{name}"), mask_slices.masked),
        workflows=rules.write_comfyui.output,
        validation=RESULTS.validation,
        table=RESULTS.score_table,
        lock=lock_of,
        extras=bundle_extras,
    output:
        bundle=RESULTS.bundle,
    log:
        RESULTS.log("make_bundle"),
    benchmark:
        RESULTS.benchmark("make_bundle")
    priority: 1
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_with_base(bundle_settings),
    message:
        "{wildcards.character}: bundle"
    shell:
        "run make_bundle --results results/{wildcards.character} --lock {input.lock:q} "
        "--settings {params.settings:q} --output {output.bundle:q} --log {log:q} --extras {input.extras:q}"
