#!/bin/sh
# Whether every package of envs/requirements.txt has a wheel for each Python that envs/setup.sh takes; nothing is installed.
# Called by make lock. connection-pool, which Snakemake needs, is offered as source alone: pure Python, built anywhere.
set -eu
cd "$(dirname "$0")/.."
grep -v '^connection-pool==' envs/requirements.txt > .venv/lock/wheels.txt
for version in $(sed -n 's/^pythons="\(.*\)"$/\1/p' envs/setup.sh); do
    echo "wheels for Python $version ..."
    .venv/lock/bin/pip install --quiet --dry-run --no-deps --only-binary :all: --python-version "$version" \
        --target .venv/lock/nowhere --requirement .venv/lock/wheels.txt
done
