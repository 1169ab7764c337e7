# Where the person is in each image, at the sizes of its latents. Runs only if images.masks asks for it.


rule make_mask:
    input:
        image=RESULTS.image("{shot}"),
    output:
        mask=RESULTS.mask("{shot}"),
    log:
        RESULTS.log("make_mask", "{shot}"),
    benchmark:
        RESULTS.benchmark("make_mask", "{shot}")
    priority: 12
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_of(mask_slices.mask, "shot"),
        own=path_of(own_image),
        own_content=content_of(own_image),
        mask=path_of(own_mask),
        mask_content=content_of(own_mask),
    message:
        "{wildcards.character}: mask of {wildcards.shot}"
    shell:
        "run make_mask {input.image:q} --user-file {params.own:q} --mask {params.mask:q} "
        "--settings {params.settings:q} --output {output.mask:q} --log {log:q}"
