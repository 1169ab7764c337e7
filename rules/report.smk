# One self-contained HTML page about a character; its checkpoints side by side and its charts as pictures.


rule write_report:
    input:
        reference=RESULTS.reference,
        prompts=prompt_page,
        lint=RESULTS.lint,
        manifest=RESULTS.manifest,
        samples=files_of(
            RESULTS.grid("{name}"),
            step_names(lambda c: c.sampled_steps),
        ),
        # The same prompts drawn by the base without the LoRA.
        alone=files_of(
            RESULTS.sample(f"{0:06d}", "{name}"),
            lambda c: c.prompt_names if c.sampled_steps else [],
        ),
        validation=RESULTS.validation,
        table=RESULTS.score_table,
        strengths=strength_sweep,
    output:
        report=report(
            RESULTS.report,
            caption="captions/report.rst",
            category="Pages",
            labels={"character": "{character}", "what": "report"},
        ),
        comparison=report(
            RESULTS.comparison,
            caption="captions/comparison.rst",
            category="Previews",
            labels={"character": "{character}", "what": "all checkpoints"},
        ),
        scores=report(
            RESULTS.plot("scores"),
            caption="captions/scores.rst",
            category="Charts",
            labels={"character": "{character}", "what": "scores"},
        ),
        loss=report(
            RESULTS.plot("loss"),
            caption="captions/loss.rst",
            category="Charts",
            labels={"character": "{character}", "what": "loss"},
        ),
    log:
        RESULTS.log("write_report"),
    benchmark:
        RESULTS.benchmark("write_report")
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: 8
    params:
        settings=settings_with_base(slices.report),
    message:
        "{wildcards.character}: report"
    shell:
        "run write_report --results results/{wildcards.character} "
        "--settings {params.settings:q} --output {output.report:q} --comparison {output.comparison:q} "
        "--scores-plot {output.scores:q} --loss-plot {output.loss:q} --threads {threads} --log {log:q}"


rule write_index:
    input:
        reports=lambda wildcards: [results(name).report for name in on_index()],
        galleries=lambda wildcards: [
            results(name).gallery for name in on_index() if person(name).gallery
        ],
    output:
        page=report(
            INDEX.as_posix(),
            caption="captions/index.rst",
            category="Pages",
            labels={"character": "all", "what": "index"},
        ),
    log:
        WORK.log("write_index"),
    benchmark:
        WORK.benchmark("write_index")
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=lambda wildcards: value(
            delivery.index(person(name) for name in on_index())
        ),
    message:
        "page of all characters"
    shell:
        "run write_index --results results --settings {params.settings:q} --output {output.page:q} --log {log:q}"
