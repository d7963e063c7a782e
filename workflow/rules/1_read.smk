"""Read: every 2-D real-space image of a shard's files, calibrated, or the reason why there is none.

In:  results/0_archive/{shard}.tsv         the files of the shard, frozen (products.SHARD); the files themselves
Out: results/1_images/{shard}.zarr         OME-Zarr 0.5, one group per image: pyramid of (row, col), the file's own integer
                                           type or float32 [counts], scale [nm]; attribute "images": products.READ
"""


rule read_images:
    input:
        shard_tsv="results/0_archive/{shard}.tsv",
        # where the archive is: a moved archive is no new content, so its age does not count
        archive=ancient("results/0_archive/archive.txt"),
        again=again,
        modules=modules_of("read_images"),
    output:
        images_zarr=directory("results/1_images/{shard}.zarr"),
    log:
        "results/logs/read_images/{shard}.log",
    benchmark:
        "results/benchmarks/read_images/{shard}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: spread(4)
    resources:
        mem_mb=grown(config["read"]["memory_mb"]),
        runtime=120,
    params:
        settings=config["read"],
    script:
        "../scripts/read_images.py"
