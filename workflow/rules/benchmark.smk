"""Benchmark: every method on composed fields with known defects. Not part of an ordinary run: snakemake --cores 8 benchmark

In:  models/libraries/<name>.yaml          the multislice library the fields are composed from
     models/<name>/                        the model that is measured: the first of `models`
Out: results/benchmark/index.html          figures 1 and 2, table 1, efficiency, calibration, kinds, whole files
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
]


rule benchmark:
    input:
        "results/benchmark/index.html",


rule run_benchmark:
    input:
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
        settings={key: config["benchmark"][key] for key in ("size", "methods")} | {"seed": config["seed"]},
        stages={name: config[name] for name in ("read", "tile", "infer", "defects")},
        provenance={"versions": settings.versions()},
    script:
        "../scripts/run_benchmark.py"
