"""Crops: every method trained and scored on crops of any phase; ask for it: snakemake benchmark_crops --config crops=DIR

In:  crops of the config: a folder with bulk_train.npy, bulk_test.npy and one .npy per defect, each (N, 64, 64), numbers
Out: results/benchmark/crops.csv   method, set, n, auroc, tpr_at_1pct_fpr, tpr_at_0p1pct_fpr, detected_published_rule
                                   [fractions], then auroc_se and 95 % intervals
"""


rule benchmark_crops:
    input:
        sets=of_crops,
        modules=modules_of("benchmark_crops"),
    output:
        table="results/benchmark/crops.csv",
    log:
        "results/logs/benchmark_crops.log",
    benchmark:
        "results/benchmarks/benchmark_crops.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 4
    resources:
        mem_mb=grown(4000),
        runtime=120,
    params:
        folder=as_it_is(config["crops"]),
        methods=config["benchmark"]["methods"],
        band_width=config["defects"]["published_band_std"],
        seed=config["seed"],
    script:
        "../scripts/benchmark_crops.py"
