#!/bin/sh
# What a GPU brings and whether it agrees with the processor: JSON on standard output, under six minutes.
# Needed: a python3 with PyTorch and numpy, and this repository. What else a part needs is skipped with a word.
#   sh tests/device_check.sh > device.json        sh tests/device_check.sh --tiny     PYTHON=/opt/python3 sh tests/device_check.sh
exec "${PYTHON:-python3}" "$(dirname "$0")/device_check.py" "$@"
