"""oddlattice: finds what does not belong in atomic-resolution STEM images.

archive -> results/0_archive -> 1_images -> 2_tiles -> 3_differences -> 4_defects -> 5_report/index.html
Run it:   snakemake --cores 8 --config archive=/data/microscope
Train:    snakemake --cores 8 train --configfile my_crystal.yaml
Measure:  snakemake --cores 8 benchmark
"""

from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config.yaml"


include: "workflow/rules/common.smk"


rule all:
    input:
        "results/5_report/index.html",
        "results/ro-crate-metadata.json",


include: "workflow/rules/1_read.smk"
include: "workflow/rules/2_tile.smk"
include: "workflow/rules/3_infer.smk"
include: "workflow/rules/4_defects.smk"
include: "workflow/rules/5_report.smk"
include: "workflow/rules/crystals.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/benchmark.smk"
include: "workflow/rules/benchmark_crops.smk"


onstart:
    begin()


onsuccess:
    finish()


onerror:
    finish()
