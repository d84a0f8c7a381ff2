"""Peak memory of real processes: more images cost no more."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PEAK = """
import re, sys
from pathlib import Path
import torch
from torch import nn
import scionet

torch.set_num_threads(1)
layers = [m for i in range(4) for m in (nn.Conv2d(16 if i else 3, 16, 3, padding=1), nn.ReLU())]
model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
batches = type("B", (), {"__iter__": lambda _: (torch.randn(16, 3, 64, 64) for _ in range(int(sys.argv[1])))})()
resources = scionet.Resources(memory_gib=0.01, batch_size=16)
scionet.prune(model, batches, "macs<=60%", example_inputs=torch.randn(2, 3, 64, 64), resources=resources)
print(re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.slow
def test_ten_times_the_images_take_no_more_memory() -> None:
    peaks = []
    for count in (4, 40):
        done = subprocess.run([sys.executable, "-c", PEAK, str(count)], check=True, capture_output=True, text=True)
        peaks.append(int(re.findall(r"\d+", done.stdout)[-1]) / 1024)
    few, many = peaks
    # 36 more batches hold 2 activations of 4 MB each while they wait, twice (dense and pruned): 576 MB
    assert many - few < 100, peaks
