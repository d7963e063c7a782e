"""Train: a model of a crystal's bulk. Not part of an ordinary run; ask for it: snakemake --cores 8 train

In:  models/<name>/crystal.yaml            the unit cell; <name> is train.name of the config. Where train.crystal is given
                                           (auto, or lengths and columns) it is made from the first bulk image instead
     models/libraries/<train.library>.yaml a multislice library, where the source is a simulation and train.library is set
     train.bulk                            images of bulk below the archive, where train.source is images
Out: models/<name>/model.yaml              architecture, preprocessing, calibration, sha256 of the weights and of the recipe
     models/<name>/weights.safetensors     float32
     models/<name>/card.md, card.png       the model card
     models/<name>/history.csv             the loss at each look [nats per patch]
"""


rule train:
    input:
        f"models/{config['train']['name']}/model.yaml",


rule train_model:
    input:
        **(
            {}
            if "crystal" in config["train"] or config["train"]["source"] == "any"
            else {"crystal": f"models/{config['train']['name']}/crystal.yaml"}
        ),
        modules=modules_of("train_model"),
    output:  # update: the old model stays until the new one is there
        **(
            {"crystal": update(f"models/{config['train']['name']}/crystal.yaml")}
            if "crystal" in config["train"]
            else {}
        ),
        model=update(f"models/{config['train']['name']}/model.yaml"),
        weights=update(f"models/{config['train']['name']}/weights.safetensors"),
        card=update(f"models/{config['train']['name']}/card.md"),
        picture=update(f"models/{config['train']['name']}/card.png"),
        history=update(f"models/{config['train']['name']}/history.csv"),
    log:
        f"results/logs/train_model/{config['train']['name']}.log",
    benchmark:
        f"results/benchmarks/train_model/{config['train']['name']}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=grown(4000),
        runtime=240,
    params:
        settings=config["train"],
        seed=config["seed"],
        read=config["read"],
        archive=as_it_is(config["archive"]),
        # no input: an ordinary training must not start the multislice
        library=(
            str(REPOSITORY / f"models/libraries/{config['train']['library']}.yaml")
            if config["train"]["library"]
            else None
        ),
    script:
        "../scripts/train_model.py"
