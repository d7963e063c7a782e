"""Crystals: the library in which an image's crystal is looked up, from lattice constants and places of atoms.

In:  crystals/recipe.yaml        space groups, lattice constants [nm], places of atoms, zone axes, sources
Out: crystals/library.json       two-dimensional cells [nm] and columns (u, v, atoms per repeat, expected intensity [nm2])
The library ships with the repository; no other rule asks for it to be made again (seconds).
Needs the optional dependencies: pip install .[library]. Run: snakemake --cores 1 build_crystals
"""


rule build_crystals:
    input:
        recipe="crystals/recipe.yaml",
        modules=modules_of("build_crystals"),
    output:
        library=update("crystals/library.json"),
    log:
        "results/logs/build_crystals.log",
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=10,
    script:
        "../scripts/build_crystals.py"
