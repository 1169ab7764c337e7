# The file to ship.


def thumbnails(wildcards):
    """What the checkpoints that may be shipped drew for the prompt whose picture goes into the header."""
    character, made = person(wildcards.character), results(wildcards.character)
    prompt = slices.thumbnail(character)
    steps = {*character.candidates, character.saved_steps[-1], character.checkpoint}
    drawn = (
        sorted(steps & set(character.sampled_steps) - {0}, key=str) if prompt else []
    )
    return [made.sample(step, prompt) for step in drawn]


rule export_final:
    input:
        validation=RESULTS.validation,
        report=RESULTS.report,
        checkpoints=shippable_checkpoints,
        samples=thumbnails,
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
        settings=settings_with_base(slices.final),
    message:
        "{wildcards.character}: the LoRA to ship"
    shell:
        "run export_final {input.validation:q} --results results/{wildcards.character} "
        "--lock {input.lock:q} --settings {params.settings:q} --output {output.lora:q} --log {log:q}"
