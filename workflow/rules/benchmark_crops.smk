"""Crops: every method trained and scored on crops of any phase; ask for it: snakemake benchmark_crops --config crops=DIR

In:  crops of the config: a folder with bulk_train.npy, bulk_test.npy and one .npy per defect, each (N, 64, 64), numbers
Out: results/benchmark/crops.csv   method, set, n, auroc, tpr_at_1pct_fpr, tpr_at_0p1pct_fpr, detected_published_rule
                                   [fractions], then auroc_se and 95 % intervals
"""

CROPS = os.path.abspath(os.path.expanduser(config["crops"])) if config["crops"] else ""


def crop_sets(wildcards):
    """Input function: the .npy files of the folder of crops."""
    if not CROPS:
        sys.exit(f"{settings.source(['crops'], config_sources())}: crops: found nothing; needed a folder of .npy sets")
    return sorted(str(path) for path in Path(CROPS).glob("*.npy"))


rule benchmark_crops:
    input:
        sets=crop_sets,
        modules=modules_of("benchmark_crops"),
    output:
        table="results/benchmark/crops.csv",
    log:
        "results/logs/benchmark_crops.log",
    benchmark:
        "results/benchmarks/benchmark_crops.tsv"
    threads: 4
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        folder=CROPS,
        band_width=config["defects"]["published_band_std"],
        seed=config["seed"],
    script:
        "../scripts/benchmark_crops.py"
