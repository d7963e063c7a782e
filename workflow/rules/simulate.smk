"""Simulate: a multislice library of a crystal, bulk and defects, from its recipe.

In:  models/libraries/<name>.recipe.yaml   structure, zone axis, microscope, thicknesses, defects
Out: models/libraries/<name>.safetensors   bulk float32 (thickness, row, col) and differences of defects, the same
                                           [fraction of the incident beam], 20 px per unit cell
     models/libraries/<name>.yaml          recipe, hashes, versions
The library ships with the repository; no other rule asks for it to be made again (20 CPU minutes on one thread).
Needs the optional dependencies: pip install .[library]. Run: snakemake --cores 1 simulate_library
"""


rule simulate_library:
    input:
        recipe="models/libraries/srtio3_001.recipe.yaml",
        modules=modules_of("simulate_library"),
    output:
        images="models/libraries/srtio3_001.safetensors",
        card="models/libraries/srtio3_001.yaml",
    log:
        "results/logs/simulate_library.log",
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=grown(3000),
        runtime=120,
    script:
        "../scripts/simulate_library.py"
