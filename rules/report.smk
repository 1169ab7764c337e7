# One self-contained HTML page about a character; its checkpoints side by side and its charts as pictures.


rule write_report:
    input:
        reference="results/{character}/reference.png",
        prompts=prompt_page,
        lint="results/{character}/lint.json",
        manifest="results/{character}/dataset.json",
        samples=files_of(
            RESULTS.grid("{name}"),
            step_names(lambda c: c.sampled_steps),
        ),
        # What the base draws for the same prompts without the LoRA.
        alone=files_of(
            RESULTS.sample(f"{0:06d}", "{name}"),
            lambda c: c.prompt_names if c.sampled_steps else [],
        ),
        validation="results/{character}/validation.json",
        table="results/{character}/scores.csv",
        strengths=strength_sweep,
    output:
        report=report(
            "results/{character}/report.html",
            caption="captions/report.rst",
            category="Pages",
            labels={"character": "{character}", "what": "report"},
        ),
        comparison=report(
            "results/{character}/comparison.png",
            caption="captions/comparison.rst",
            category="Previews",
            labels={"character": "{character}", "what": "all checkpoints"},
        ),
        scores=report(
            "results/{character}/plots/scores.png",
            caption="captions/scores.rst",
            category="Charts",
            labels={"character": "{character}", "what": "scores"},
        ),
        loss=report(
            "results/{character}/plots/loss.png",
            caption="captions/loss.rst",
            category="Charts",
            labels={"character": "{character}", "what": "loss"},
        ),
    log:
        "results/{character}/logs/write_report.log",
    benchmark:
        "results/{character}/benchmarks/write_report.tsv"
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
        "work/logs/write_index.log",
    benchmark:
        "work/benchmarks/write_index.tsv"
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
