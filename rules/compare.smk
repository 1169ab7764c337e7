# A page that compares a finished character with its previous result. Made only on request.


rule compare_results:
    input:
        final=RESULTS.final,
    output:
        page=RESULTS.versus,
    log:
        RESULTS.log("compare_results"),
    benchmark:
        RESULTS.benchmark("compare_results")
    conda:
        "../envs/charloom.yaml"
    threads: 1
    params:
        settings=settings(delivery.versus),
    message:
        "{wildcards.character}: before and now"
    shell:
        "run compare_results --results results/{wildcards.character} "
        "--settings {params.settings:q} --output {output.page:q} --log {log:q}"
