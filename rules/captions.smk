# A captioner's descriptions of pictures that have no caption by the user, and the captions proposed from them. The
# first job whose text is not in the store loads the model and describes everything its sibling jobs will need.


rule caption_image:
    input:
        image=RESULTS.image("{shot}"),
    output:
        raw=RESULTS.raw_caption("{shot}"),
    log:
        RESULTS.log("caption_image", "{shot}"),
    benchmark:
        RESULTS.benchmark("caption_image", "{shot}")
    priority: 25
    conda:
        "../envs/charloom.yaml"
    threads: HEAVY_THREADS
    resources:
        gpu=captioner_gpus,
    params:
        settings=settings(caption_slices.captioner),
        model=captioner_content,
        siblings=untracked(caption_slices.siblings),
        engine=untracked(slices.engine),
    message:
        "{wildcards.character}: description of {wildcards.shot}"
    shell:
        "run caption_image {input.image:q} --results results/{wildcards.character} "
        "--siblings {params.siblings:q} --settings {params.settings:q} --engine {params.engine:q} "
        "--threads {threads} --output {output.raw:q} --log {log:q}"


rule propose_captions:
    input:
        images=files_of(RESULTS.image("{name}"), lambda c: c.image_names),
        captions=files_of(RESULTS.caption("{name}"), lambda c: c.image_names),
        raw=files_of(RESULTS.raw_caption("{name}"), caption_slices.described),
    output:
        proposals=RESULTS.proposals,
    log:
        RESULTS.log("propose_captions"),
    benchmark:
        RESULTS.benchmark("propose_captions")
    priority: 21
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(caption_slices.cleaning_all),
    message:
        "{wildcards.character}: captions proposed by the captioner"
    shell:
        "run propose_captions --results results/{wildcards.character} "
        "--settings {params.settings:q} --output {output.proposals:q} 2> {log:q}"
