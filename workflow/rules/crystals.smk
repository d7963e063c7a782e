"""Crystals: the library in which an image's crystal is looked up, from lattice constants and places of atoms.

In:  crystals/recipe.yaml        space groups, lattice constants [nm], places of atoms, zone axes, sources
     CIF files below the config's crystals
Out: crystals/library.json       two-dimensional cells [nm] and columns (u, v, atoms per repeat, expected intensity [nm2])
     results/0_archive/crystals.json  the same of the CIF files, where crystals is set
The library ships with the repository; no other rule asks for it to be made again (seconds).
Run: snakemake --cores 1 build_crystals
"""


rule read_crystals:
    input:
        cifs=of_cifs,
        modules=modules_of("read_crystals"),
    output:
        library="results/0_archive/crystals.json",
    log:
        "results/logs/read_crystals.log",
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=30,
    script:
        "../scripts/read_crystals.py"


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
