# The gallery: scenes drawn with the finished LoRA. One process draws all that are missing and stores each at once.


rule draw_gallery:
    input:
        lora=RESULTS.final,
        styles=gallery_styles,
        embedding=RESULTS.prompt_embedding("gallery-{scene}"),
        empty=negative_embedding,
        lock=lock_of,
    output:
        image=RESULTS.scene("{scene}"),
    log:
        RESULTS.log("draw_gallery", "{scene}"),
    benchmark:
        RESULTS.benchmark("draw_gallery", "{scene}")
    priority: 1
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=1,
    params:
        settings=lambda wildcards: value(
            gallery_slices.scene(
                person(wildcards.character),
                BASES[person(wildcards.character).base],
                wildcards.scene,
            )
        ),
        # LoRA files from elsewhere.
        content=lambda wildcards: CONTENTS.of_all(
            gallery_slices.files(person(wildcards.character), wildcards.scene)
        ),
        siblings=untracked(gallery_slices.other_scenes),
        engine=untracked(slices.engine),
    message:
        "{wildcards.character}: scene {wildcards.scene} of the gallery"
    shell:
        "run draw_gallery --results results/{wildcards.character} --lora {input.lora:q} --lock {input.lock:q} "
        "--settings {params.settings:q} --siblings {params.siblings:q} --engine {params.engine:q} "
        "--threads {threads} --output {output.image:q} --log {log:q}"


rule write_gallery:
    input:
        images=scenes_of,
        lora=RESULTS.final,
    output:
        page=report(
            RESULTS.gallery,
            caption="captions/gallery.rst",
            category="Pages",
            labels={"character": "{character}", "what": "gallery"},
        ),
    log:
        RESULTS.log("write_gallery"),
    benchmark:
        RESULTS.benchmark("write_gallery")
    priority: 1
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_with_base(gallery_slices.gallery),
    message:
        "{wildcards.character}: gallery"
    shell:
        "run write_gallery --results results/{wildcards.character} --settings {params.settings:q} "
        "--output {output.page:q} --log {log:q}"
