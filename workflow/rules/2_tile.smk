"""Tile: the lattice of each image is fitted, and the image resampled onto it, 20 px per unit cell along each vector.

In:  results/1_images/{shard}.zarr         images (row, col) [counts]
     models/<name>/                        crystal.yaml: the unit cells the lattice may be; weights.safetensors: of
                                           several that fit, the one whose network knows the image's mean cell best
Out: results/2_tiles/{shard}.zarr          per image: tiles float32 (u, v) [local mean = 1], mask uint8 (cell u, cell v),
                                           inside uint8 (cell u, cell v): lies in the image,
                                           nodes_px float32 (2, cell u, cell v) [px], row_shift_px float32 (row) [px],
                                           local_mean float32 (cell u, cell v) [counts]; lattice and its errors as attributes
"""


rule cut_tiles:
    input:
        images_zarr="results/1_images/{shard}.zarr",
        crystals=of_models("crystal.yaml"),
        weights=of_models("weights.safetensors"),
        libraries=crystal_libraries,
        modules=modules_of("cut_tiles"),
    output:
        tiles_zarr=directory("results/2_tiles/{shard}.zarr"),
    log:
        "results/logs/cut_tiles/{shard}.log",
    benchmark:
        "results/benchmarks/cut_tiles/{shard}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: spread(4)
    resources:
        mem_mb=grown(4000),
        runtime=120,
    params:
        settings=config["tile"],
        misfit_limit=own_limit(),
    script:
        "../scripts/cut_tiles.py"
