# From the character file to a checked data set: prompt sheet, images, crops, captions.


rule write_prompts:
    output:
        html=RESULTS.prompt_page,
        txt=RESULTS.prompt_text,
    log:
        RESULTS.log("write_prompts"),
    benchmark:
        RESULTS.benchmark("write_prompts")
    priority: 30
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(slices.prompt_sheet),
    message:
        "{wildcards.character}: prompt sheet"
    shell:
        "run write_prompts --settings {params.settings:q} "
        "--html {output.html:q} --txt {output.txt:q} 2> {log:q}"


rule make_reference:
    input:
        files=source_inputs,
    output:
        image=RESULTS.reference,
    log:
        RESULTS.log("make_reference"),
    benchmark:
        RESULTS.benchmark("make_reference")
    priority: 50
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=lambda wildcards: value(
            slices.source_image(person(wildcards.character), None)
        ),
        file=path_of(own_image),
        content=content_of(own_image),
    message:
        "{wildcards.character}: neutral reference"
    shell:
        "run make_source_image --user-file {params.file:q} --settings {params.settings:q} "
        "--output {output.image:q} 2> {log:q}"


rule make_source_image:
    input:
        files=source_inputs,
    output:
        image=RESULTS.source("{shot}"),
    log:
        RESULTS.log("make_source_image", "{shot}"),
    benchmark:
        RESULTS.benchmark("make_source_image", "{shot}")
    wildcard_constraints:
        shot=OF_PLAN,
    priority: 40
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_of(slices.source_image, "shot"),
        file=path_of(own_image),
        content=content_of(own_image),
    message:
        "{wildcards.character}: image {wildcards.shot}"
    shell:
        "run make_source_image --user-file {params.file:q} --settings {params.settings:q} "
        "--output {output.image:q} 2> {log:q}"


rule crop_watermark:
    input:
        image=RESULTS.source("{shot}"),
    output:
        image=RESULTS.image("{shot}"),
    log:
        RESULTS.log("crop_watermark", "{shot}"),
    benchmark:
        RESULTS.benchmark("crop_watermark", "{shot}")
    wildcard_constraints:
        shot=OF_PLAN,
    priority: 30
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_of(slices.crop, "shot"),
    message:
        "{wildcards.character}: crop {wildcards.shot}"
    shell:
        "run crop_watermark {input.image:q} --settings {params.settings:q} "
        "--output {output.image:q} 2> {log:q}"


# A picture of the user's folder. The first job converts all of them; the others link theirs from the store without
# starting Python.
rule convert_picture:
    input:
        files=source_inputs,
    output:
        image=RESULTS.image("{shot}"),
    log:
        RESULTS.log("convert_picture", "{shot}"),
    benchmark:
        RESULTS.benchmark("convert_picture", "{shot}")
    wildcard_constraints:
        character=who(lambda one: one.source == "folder"),
        shot=OF_PLAN,
    priority: 30
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_of(own_files.picture_settings, "shot"),
        file=path_of(own_image),
        content=content_of(own_image),
        stored=stored_picture,
        siblings=siblings_of(own_files.pictures_of),
        cores=lambda wildcards, input: workflow.resource_settings.cores or 1,
    message:
        "{wildcards.character}: picture {wildcards.shot}"
    shell:
        "stored {params.stored:q} {output.image:q} || "
        "run convert_picture --user-file {params.file:q} --settings {params.settings:q} "
        "--siblings {params.siblings:q} --threads {params.cores} "
        "--output {output.image:q} 2> {log:q}"


# The same for an extra data set.
use rule convert_picture as convert_set_picture with:
    wildcard_constraints:
        character=who(lambda one: one.datasets),
        shot=OF_SET,


# The caption of a picture in a folder that is used as a whole, in the same way.
rule take_caption:
    output:
        caption=RESULTS.caption("{shot}"),
    log:
        RESULTS.log("take_caption", "{shot}"),
    benchmark:
        RESULTS.benchmark("take_caption", "{shot}")
    wildcard_constraints:
        character=who(lambda one: one.whole and as_written(one)),
        shot=OF_PLAN,
    priority: 30
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_of(slices.caption, "shot"),
        file=path_of(own_caption),
        content=content_of(own_caption),
        stored=stored_caption,
        siblings=siblings_of(own_files.captions_of),
    message:
        "{wildcards.character}: caption {wildcards.shot}"
    shell:
        "stored {params.stored:q} {output.caption:q} || "
        "run take_caption --user-file {params.file:q} --settings {params.settings:q} "
        "--siblings {params.siblings:q} --output {output.caption:q} 2> {log:q}"


# The same for an extra data set.
use rule take_caption as take_set_caption with:
    wildcard_constraints:
        character=who(lambda one: one.datasets and as_written(one)),
        shot=OF_SET,


ruleorder: convert_picture > crop_watermark
ruleorder: take_caption > write_caption
ruleorder: take_set_caption > write_caption


rule write_caption:
    input:
        raw=raw_caption_of,
    output:
        caption=RESULTS.caption("{shot}"),
    log:
        RESULTS.log("write_caption", "{shot}"),
    benchmark:
        RESULTS.benchmark("write_caption", "{shot}")
    priority: 30
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_of(slices.caption, "shot"),
        file=path_of(own_caption),
        content=content_of(own_caption),
    message:
        "{wildcards.character}: caption {wildcards.shot}"
    shell:
        "run write_caption --user-file {params.file:q} --settings {params.settings:q} "
        "--output {output.caption:q} 2> {log:q}"


rule lint_dataset:
    input:
        images=files_of(RESULTS.image("{name}"), lambda c: c.image_names),
        captions=files_of(RESULTS.caption("{name}"), lambda c: c.image_names),
        proposals=proposals_of,
    output:
        findings=RESULTS.lint,
    log:
        RESULTS.log("lint_dataset"),
    benchmark:
        RESULTS.benchmark("lint_dataset")
    priority: 20
    conda:
        "../envs/charloom.yaml"
    threads: 2
    params:
        settings=settings_with_base(slices.lint),
    message:
        "{wildcards.character}: check the data set"
    shell:
        "run lint_dataset --results results/{wildcards.character} "
        "--settings {params.settings:q} --threads {threads} "
        "--output {output.findings:q} --log {log:q}"


rule write_manifest:
    input:
        lint=RESULTS.lint,
        images=files_of(RESULTS.image("{name}"), lambda c: c.image_names),
        captions=files_of(RESULTS.caption("{name}"), lambda c: c.image_names),
        latents=files_of(RESULTS.latents("{name}"), lambda c: c.image_names),
        masks=files_of(RESULTS.mask("{name}"), mask_slices.masked),
        embeddings=files_of(
            RESULTS.embedding("{name}"),
            lambda c: c.image_names,
        ),
        variants=files_of(RESULTS.embedding("{name}"), slices.variants),
        classes=files_of(
            RESULTS.class_embedding("{name}"),
            slices.class_captions,
        ),
    output:
        manifest=RESULTS.manifest,
    log:
        RESULTS.log("write_manifest"),
    benchmark:
        RESULTS.benchmark("write_manifest")
    priority: 10
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(slices.manifest),
    message:
        "{wildcards.character}: manifest of the data set"
    shell:
        "run write_manifest --results results/{wildcards.character} "
        "--settings {params.settings:q} --output {output.manifest:q} 2> {log:q}"
