"""The machine a figure was measured on."""

import os
import platform
from pathlib import Path

import psutil
import torch

from oddlattice.predict.gpu import cpu_has_bf16
from oddlattice.run.settings import versions


def described() -> dict[str, object]:
    """Processor, cores, memory, GPU, versions, and how busy others keep it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    models = [line.partition(":")[2].strip() for line in lines if line.split("\t")[0].strip() == "model"]
    has_gpu = torch.cuda.is_available()
    return {
        "processor": names[0] if names else platform.processor(),
        "processor_model": models[0] if models else "",
        "cores": os.cpu_count(),
        "bfloat16_in_hardware": cpu_has_bf16(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if has_gpu else "none",
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "versions": versions(),
    }
