"""Write docs/models.md: the sites, the refusals and the time of `discover` for well-known networks.

    python -m benchmarks.run.model_table

The networks have random weights; nothing is downloaded. With names on the command line, only their rows are printed.
"""

import re
import sys
import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import DOCS
from benchmarks.report.columns import table
from scionet.budget.costs import CostModel
from scionet.errors import UnsupportedModel
from scionet.models.factory import build
from scionet.network.discovery.discover import discover

PAGE = DOCS / "models.md"
PIXELS = {"scionet": 32, "inception_v3": 299}
MODELS = {
    "scionet": "resnet20 resnet56 resnet20_projection vgg13 mobilenet_v1",
    "torchvision": "alexnet vgg16_bn resnet18 resnet50 resnext50_32x4d densenet121 googlenet inception_v3 "
    "squeezenet1_1 mobilenet_v2 mobilenet_v3_small mnasnet1_0 efficientnet_b0 efficientnet_v2_s regnet_y_400mf "
    "shufflenet_v2_x1_0 convnext_tiny vit_b_16 swin_t",
    "timm": "efficientnet_lite0 tf_efficientnet_lite0 resnet50d res2net50_26w_4s hrnet_w18_small dla34 repvgg_a0 "
    "ghostnet_100 cspresnet50 nf_resnet50 vit_tiny_patch16_224 deit3_small_patch16_224 beit_base_patch16_224 "
    "swin_tiny_patch4_window7_224 visformer_tiny levit_128s mixer_s32_224 convnextv2_atto mobilevit_xxs",
}
INTRODUCTION = """# Which networks can be pruned, and where

Made by `python -m benchmarks.run.model_table` from networks with random weights. Do not edit by hand.

*Sites* are sets of channels or attention heads that can be removed (see [the design](design.md)). *Smallest* is the
fraction of the MACs that remains with one unit at every site. *Left whole* lists the operations that make `discover`
refuse channels, with the number of refusals (without numbers, if nothing can be pruned). Each refusal also names its
module and says what to do; `print(discover(model, example_inputs))` shows them all. The output of a network always
stays whole. *Time* is the time of `discover` on one image, in units of a forward pass of the same network.

"""
HEADS = ("network", "parameters", "sites", "smallest", "left whole", "time")


@dataclass(frozen=True)
class Row:
    """The result for one network."""

    name: str
    parameters: int
    sites: int
    smallest: float
    refused: tuple[str, ...]
    passes: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as table cells."""
        counts = Counter(self.refused).most_common()
        whole = ", ".join(f"`{name}`" + (f" × {count}" if count > 1 else "") for name, count in counts)
        size = f"{self.parameters / 1e6:.2f} M"
        return self.name, size, str(self.sites), f"{self.smallest:.1%}", whole, f"{self.passes:.0f}"


def main(names: list[str]) -> None:
    """Write the page, or print the rows of the named networks."""
    torch.set_num_threads(1)
    row("scionet:resnet20")  # loads and initialises what the first call would include
    asked = names or [f"{source}:{name}" for source, list_ in MODELS.items() for name in list_.split()]
    text = table(HEADS, (row(name).cells for name in asked), texts=(0, 4))
    if names:
        print(text)
    else:
        PAGE.write_text(f"{INTRODUCTION}{text}\n")


def row(name: str) -> Row:
    """Build one network and measure `discover` on it."""
    torch.manual_seed(0)
    model = build(name).eval()
    source, _, short = name.partition(":")
    pixels = PIXELS.get(short, PIXELS.get(source, 224))
    x = torch.randn(1, 3, pixels, pixels)
    forward = min(_forward_seconds(model, x) for _ in range(3))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    start = time.process_time()
    try:
        sites = discover(model, x)
    except UnsupportedModel as error:
        operations = re.findall(r": (\w+) in ", str(error))
        return Row(name, parameters, 0, 1.0, tuple(operations), (time.process_time() - start) / forward)
    passes = (time.process_time() - start) / forward
    costs = CostModel(sites)
    smallest = costs.cost(dict.fromkeys(sites, 1)).macs / costs.dense.macs
    return Row(name, parameters, len(sites), smallest, tuple(r.operation for r in sites.refused), passes)


def _forward_seconds(model: nn.Module, x: Tensor) -> float:
    start = time.process_time()
    with torch.no_grad():
        model(x)
    return time.process_time() - start


if __name__ == "__main__":
    main(sys.argv[1:])
