"""Train: a model of a crystal's bulk. Not part of an ordinary run; ask for it: snakemake --cores 8 train

In:  models/<name>/crystal.yaml            the unit cell; <name> is train.name of the config
Out: models/<name>/model.yaml              architecture, preprocessing, calibration, sha256 of the weights and of the recipe
     models/<name>/weights.safetensors     float32
     models/<name>/card.md                 the model card
"""


rule train:
    input:
        f"models/{config['train']['name']}/model.yaml",


rule train_model:
    input:
        crystal=f"models/{config['train']['name']}/crystal.yaml",
        modules=modules_of("train_model"),
    output:
        model=f"models/{config['train']['name']}/model.yaml",
        weights=f"models/{config['train']['name']}/weights.safetensors",
        card=f"models/{config['train']['name']}/card.md",
    log:
        f"results/logs/train_model/{config['train']['name']}.log",
    benchmark:
        f"results/benchmarks/train_model/{config['train']['name']}.tsv"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0 if config["infer"]["device"] == "cpu" else 1,
    params:
        settings=config["train"] | {"seed": config["seed"]},
    script:
        "../scripts/train_model.py"
