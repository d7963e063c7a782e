"""Infer: what the model expects of bulk, and the difference from it, tile by tile.

In:  results/2_tiles/{shard}.zarr          tiles float32 (u, v), mask uint8 (cell u, cell v)
     models/<name>/                        crystal.yaml, model.yaml, weights.safetensors
     models/any_crystal/                   model.yaml, weights.safetensors
Out: results/3_differences/{shard}.zarr    per image: prediction, difference float32 (u, v) [local mean = 1], same chunks
"""


rule infer_differences:
    input:
        tiles_zarr="results/2_tiles/{shard}.zarr",
        crystals=of_models("crystal.yaml"),
        models=of_models("model.yaml"),
        weights=of_models("weights.safetensors"),
        any_crystal=f"{REPOSITORY}/models/any_crystal/weights.safetensors",
        modules=modules_of("infer_differences"),
    output:
        differences_zarr=directory("results/3_differences/{shard}.zarr"),
    log:
        "results/logs/infer_differences/{shard}.log",
    benchmark:
        "results/benchmarks/infer_differences/{shard}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: spread(8)
    resources:
        mem_mb=grown(4000),
        runtime=120,
        gpu=gpus,
    params:
        settings=config["infer"],
    script:
        "../scripts/infer_differences.py"
