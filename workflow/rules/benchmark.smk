"""Benchmark: every method on composed fields with known defects. Not part of an ordinary run: snakemake --cores 8 benchmark

In:  models/libraries/<name>.yaml          the multislice library the fields are composed from
     models/<name>/                        the model that is measured: the first of `models`
Out: results/benchmark/published_<size>.safetensors   the published network, trained on bulk of the library
     results/benchmark/index.html          figures 1 and 2, table 1, efficiency, calibration, kinds, whole files
     results/benchmark/<table>.csv         every number of it, units in the names
"""

BENCHMARK_TABLES = [
    "aims",
    "detection",
    "efficiency",
    "ideal",
    "table_1",
    "figure_2",
    "calibration",
    "discovery",
    "intervals",
    "kinds",
    "files",
    "fields",
    "hard_bulk",
]

PUBLISHED = f"results/benchmark/published_{config['benchmark']['size']}.safetensors"


rule benchmark:
    input:
        "results/benchmark/index.html",


rule train_published:
    input:
        library=f"{REPOSITORY}/models/libraries/{config['benchmark']['library']}.yaml",
        crystal=lambda wildcards: str(models()[0] / "crystal.yaml"),
        modules=modules_of("train_published"),
    output:
        weights=PUBLISHED,
    log:
        f"results/logs/train_published/{config['benchmark']['size']}.log",
    benchmark:
        f"results/benchmarks/train_published/{config['benchmark']['size']}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(4000),
        runtime=240,
    params:
        size=config["benchmark"]["size"],
        seed=config["seed"],
    script:
        "../scripts/train_published.py"


rule run_benchmark:
    input:
        **({"published": PUBLISHED} if "published" in config["benchmark"]["methods"] else {}),
        library=f"{REPOSITORY}/models/libraries/{config['benchmark']['library']}.yaml",
        crystal=lambda wildcards: str(models()[0] / "crystal.yaml"),
        model=lambda wildcards: str(models()[0] / "model.yaml"),
        weights=lambda wildcards: str(models()[0] / "weights.safetensors"),
        modules=modules_of("run_benchmark"),
    output:
        page="results/benchmark/index.html",
        tables=[f"results/benchmark/{name}.csv" for name in BENCHMARK_TABLES],
    log:
        "results/logs/run_benchmark.log",
    conda:
        "../../envs/conda.yaml"
    threads: 64
    resources:
        mem_mb=grown(8000),
        runtime=720,
    params:
        settings=config["benchmark"],
        seed=config["seed"],
        stages={name: config[name] for name in ("read", "tile", "infer", "defects")},
        provenance={"versions": settings.versions()},
    script:
        "../scripts/run_benchmark.py"
