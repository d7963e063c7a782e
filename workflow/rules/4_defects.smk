"""Defects: every column scored, the odd ones listed, counted per area, and mapped back onto the raw image.

In:  results/1_images, 2_tiles, 3_differences/{shard}.zarr
Out: results/4_defects/{shard}.parquet          flagged columns (products.DEFECTS)
     results/4_defects/{shard}.images.parquet   every image, refused ones too (products.IMAGES)
     results/4_defects/{shard}.columns.parquet  every column tested (products.COLUMNS)
     results/4_defects/{shard}.completeness.parquet  known defects put in, and how many were found (COMPLETENESS)
     results/4_defects/{shard}.{grains,boundaries}.parquet  grains of every image, and where they meet
     results/4_defects/{shard}.zarr             OME-Zarr 0.5 maps float32 (row, col) of the raw image: difference, z,
                                                and prediction [counts]; 0 where nothing was analysed
     results/4_middles/{shard}.zarr.zip         their middles in few levels: what a scan is known by when maps were dropped
     results/4_defects/{defects,images,completeness,grains,boundaries}.{parquet,csv}  the same of all shards; what people said of them
     results/4_defects/reviews.{parquet,csv}    every statement of a person (products.REVIEWS), and what became of it
     results/4_defects/precision.csv            how many of the reviewed defects are real (products.PRECISION)
     results/4_defects/{shard}.places.parquet   every column's measured place (products.PLACES)
     results/4_defects/{shard}.statistics.json  densities, site fractions, g(r), fields of displacements of each image
     results/4_defects/statistics.json, {densities,sites,groups,comparisons,trends,populations,folder_populations}.csv  of all images together
     results/4_defects/{shard}.{series,series_frames,series_depths,tracks,events}.parquet  stacks followed through their frames
     results/4_defects/{series,series_frames,series_depths,tracks,events}.{parquet,csv}    the same of all shards
"""


rule find_defects:
    input:
        images_zarr="results/1_images/{shard}.zarr",
        tiles_zarr="results/2_tiles/{shard}.zarr",
        differences_zarr="results/3_differences/{shard}.zarr",
        modules=modules_of("find_defects"),
    output:
        defects="results/4_defects/{shard}.parquet",
        images="results/4_defects/{shard}.images.parquet",
        columns="results/4_defects/{shard}.columns.parquet",
        completeness="results/4_defects/{shard}.completeness.parquet",
        grains="results/4_defects/{shard}.grains.parquet",
        boundaries="results/4_defects/{shard}.boundaries.parquet",
        maps_zarr=directory("results/4_defects/{shard}.zarr"),
        middles="results/4_middles/{shard}.zarr.zip",
    log:
        "results/logs/find_defects/{shard}.log",
    benchmark:
        "results/benchmarks/find_defects/{shard}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(4000),
        runtime=120,
    params:
        # the rate over the run is the gathered tables'
        settings={key: value for key, value in config["defects"].items() if key != "fdr_over"},
    script:
        "../scripts/find_defects.py"


rule gather_defects:
    input:
        defects=of_shards("results/4_defects/{shard}.parquet"),
        images=of_shards("results/4_defects/{shard}.images.parquet"),
        completeness=of_shards("results/4_defects/{shard}.completeness.parquet"),
        columns=of_shards("results/4_defects/{shard}.columns.parquet"),
        grains=of_shards("results/4_defects/{shard}.grains.parquet"),
        boundaries=of_shards("results/4_defects/{shard}.boundaries.parquet"),
        series=of_shards("results/4_defects/{shard}.series.parquet"),
        series_frames=of_shards("results/4_defects/{shard}.series_frames.parquet"),
        tracks=of_shards("results/4_defects/{shard}.tracks.parquet"),
        middles=of_shards("results/4_middles/{shard}.zarr.zip"),
        reviews_json="results/0_archive/reviews.json",
        modules=modules_of("gather_defects"),
    output:
        defects_parquet="results/4_defects/defects.parquet",
        defects_csv="results/4_defects/defects.csv",
        images_parquet="results/4_defects/images.parquet",
        images_csv="results/4_defects/images.csv",
        completeness_parquet="results/4_defects/completeness.parquet",
        completeness_csv="results/4_defects/completeness.csv",
        reviews_parquet="results/4_defects/reviews.parquet",
        reviews_csv="results/4_defects/reviews.csv",
        precision_csv="results/4_defects/precision.csv",
        grains_parquet="results/4_defects/grains.parquet",
        grains_csv="results/4_defects/grains.csv",
        boundaries_parquet="results/4_defects/boundaries.parquet",
        boundaries_csv="results/4_defects/boundaries.csv",
    log:
        "results/logs/gather_defects.log",
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(4000),
        runtime=30,
    params:
        fdr=config["defects"]["fdr"],
        fdr_over=config["defects"]["fdr_over"],
    script:
        "../scripts/gather_defects.py"


rule measure_images:
    input:
        images_zarr="results/1_images/{shard}.zarr",
        tiles_zarr="results/2_tiles/{shard}.zarr",
        differences_zarr="results/3_differences/{shard}.zarr",
        crystals=of_models("crystal.yaml"),
        defects="results/4_defects/{shard}.parquet",
        images="results/4_defects/{shard}.images.parquet",
        columns="results/4_defects/{shard}.columns.parquet",
        modules=modules_of("measure_images"),
    output:
        statistics="results/4_defects/{shard}.statistics.json",
        places="results/4_defects/{shard}.places.parquet",
        series="results/4_defects/{shard}.series.parquet",
        series_frames="results/4_defects/{shard}.series_frames.parquet",
        series_depths="results/4_defects/{shard}.series_depths.parquet",
        tracks="results/4_defects/{shard}.tracks.parquet",
        events="results/4_defects/{shard}.events.parquet",
    log:
        "results/logs/measure_images/{shard}.log",
    benchmark:
        "results/benchmarks/measure_images/{shard}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(4000),
        runtime=120,
    params:
        seed=config["seed"],
        frames=config["read"]["frames"],
    script:
        "../scripts/measure_images.py"


rule compare_images:
    input:
        images_parquet="results/4_defects/images.parquet",
        defects_parquet="results/4_defects/defects.parquet",
        grains_parquet="results/4_defects/grains.parquet",
        statistics=of_shards("results/4_defects/{shard}.statistics.json"),
        series=of_shards("results/4_defects/{shard}.series.parquet"),
        series_frames=of_shards("results/4_defects/{shard}.series_frames.parquet"),
        series_depths=of_shards("results/4_defects/{shard}.series_depths.parquet"),
        tracks=of_shards("results/4_defects/{shard}.tracks.parquet"),
        events=of_shards("results/4_defects/{shard}.events.parquet"),
        images_zarr=of_shards("results/1_images/{shard}.zarr"),
        columns=of_shards("results/4_defects/{shard}.columns.parquet"),
        modules=modules_of("compare_images"),
    output:
        json="results/4_defects/statistics.json",
        densities="results/4_defects/densities.csv",
        sites="results/4_defects/sites.csv",
        groups="results/4_defects/groups.csv",
        comparisons="results/4_defects/comparisons.csv",
        trends="results/4_defects/trends.csv",
        populations="results/4_defects/populations.csv",
        populations_parquet="results/4_defects/populations.parquet",
        folder_populations="results/4_defects/folder_populations.csv",
        series_parquet="results/4_defects/series.parquet",
        series_csv="results/4_defects/series.csv",
        series_frames_parquet="results/4_defects/series_frames.parquet",
        series_frames_csv="results/4_defects/series_frames.csv",
        series_depths_parquet="results/4_defects/series_depths.parquet",
        series_depths_csv="results/4_defects/series_depths.csv",
        tracks_parquet="results/4_defects/tracks.parquet",
        tracks_csv="results/4_defects/tracks.csv",
        events_parquet="results/4_defects/events.parquet",
        events_csv="results/4_defects/events.csv",
    log:
        "results/logs/compare_images.log",
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(4000),
        runtime=30,
    params:
        settings=config["statistics"],
        seed=config["seed"],
    script:
        "../scripts/compare_images.py"
