"""Report: a page per image and the index of them all; every number on a page lies beside it as JSON or CSV.

In:  the zarr stores and tables of a shard; results/4_defects/{defects,images,reviews}.parquet;
     results/4_defects/precision.csv; results/0_archive/discovered.tsv, reviews.json, {shard}.reviews.json
Out: results/5_report/{shard}/<image_id>.html, .json, .defects.csv, .geojson and the pictures in <image_id>/
     results/5_report/{shard}/<series>.html, .json, .tracks.csv, .events.csv, .geojson   the same of every stack
     results/5_report/index.html, index.json, gallery.html   every image; every defect
     results/ro-crate-metadata.json    what lies in results, and where it comes from (RO-Crate 1.1)
     results/5_report/statistics.html, methods.md   what all images show together; the methods of a paper
"""


rule write_pages:
    input:
        images_zarr="results/1_images/{shard}.zarr",
        tiles_zarr="results/2_tiles/{shard}.zarr",
        differences_zarr="results/3_differences/{shard}.zarr",
        maps_zarr="results/4_defects/{shard}.zarr",
        defects="results/4_defects/{shard}.parquet",
        images="results/4_defects/{shard}.images.parquet",
        columns="results/4_defects/{shard}.columns.parquet",
        statistics="results/4_defects/{shard}.statistics.json",
        series="results/4_defects/{shard}.series.parquet",
        series_frames="results/4_defects/{shard}.series_frames.parquet",
        series_depths="results/4_defects/{shard}.series_depths.parquet",
        tracks="results/4_defects/{shard}.tracks.parquet",
        events="results/4_defects/{shard}.events.parquet",
        reviews_json="results/0_archive/{shard}.reviews.json",
        modules=modules_of("write_pages"),
    output:
        pages=directory("results/5_report/{shard}"),
    log:
        "results/logs/write_pages/{shard}.log",
    benchmark:
        "results/benchmarks/write_pages/{shard}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=120,
    params:
        config=analysis_config(),
    script:
        "../scripts/write_pages.py"


rule write_index:
    input:
        images_parquet="results/4_defects/images.parquet",
        defects_parquet="results/4_defects/defects.parquet",
        reviews_parquet="results/4_defects/reviews.parquet",
        precision_csv="results/4_defects/precision.csv",
        reviews_json="results/0_archive/reviews.json",
        discovered_tsv="results/0_archive/discovered.tsv",
        statistics="results/4_defects/statistics.json",
        statistics_html="results/5_report/statistics.html",
        page_dirs=of_shards("results/5_report/{shard}"),
        modules=modules_of("write_index"),
    output:
        index_html="results/5_report/index.html",
        index_json="results/5_report/index.json",
        gallery_html="results/5_report/gallery.html",
    log:
        "results/logs/write_index.log",
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=30,
    params:
        settings=config["report"],
        provenance={"config": shown_config(), "versions": settings.versions()},
    script:
        "../scripts/write_index.py"


rule write_statistics:
    input:
        statistics="results/4_defects/statistics.json",
        images_parquet="results/4_defects/images.parquet",
        page_dirs=of_shards("results/5_report/{shard}"),
        modules=modules_of("write_statistics"),
    output:
        html="results/5_report/statistics.html",
        methods="results/5_report/methods.md",
    log:
        "results/logs/write_statistics.log",
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=30,
    params:
        provenance={"config": shown_config(), "versions": settings.versions()},
    script:
        "../scripts/write_statistics.py"


rule write_crate:
    input:
        index_html="results/5_report/index.html",
        models=of_models("model.yaml"),
        modules=modules_of("write_crate"),
    output:
        json="results/ro-crate-metadata.json",
    log:
        "results/logs/write_crate.log",
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=30,
    params:
        archive=as_it_is(config["archive"]),
        versions=settings.versions(),
    script:
        "../scripts/write_crate.py"
