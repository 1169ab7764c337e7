# One self-contained HTML page about a character; its checkpoints side by side and its charts as pictures.


rule write_report:
    input:
        reference="results/{character}/reference.png",
        prompts="results/{character}/prompts.html",
        lint="results/{character}/lint.json",
        manifest="results/{character}/dataset.json",
        samples=files_of(
            RESULTS.grid("{name}"),
            step_names(lambda c: c.sampled_steps),
        ),
        validation="results/{character}/validation.json",
        table="results/{character}/scores.csv",
        strengths=strength_sweep,
    output:
        report="results/{character}/report.html",
        comparison="results/{character}/comparison.png",
        scores="results/{character}/plots/scores.png",
        loss="results/{character}/plots/loss.png",
    log:
        "results/{character}/logs/write_report.log",
    benchmark:
        "results/{character}/benchmarks/write_report.tsv"
    priority: 2
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings_with_base(slices.report),
    message:
        "{wildcards.character}: report"
    shell:
        "run write_report --results results/{wildcards.character} "
        "--settings {params.settings:q} --output {output.report:q} --comparison {output.comparison:q} "
        "--scores-plot {output.scores:q} --loss-plot {output.loss:q} --log {log:q}"
