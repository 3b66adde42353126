"""A plain 2D ResNet with bottlenecks and torchvision's names (He et al., table 1; v1.5)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, dim_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if dim_in != 4 * width or stride > 1:
            shortcut = nn.Conv2d(dim_in, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if self.downsample else x))


class ResNet2d(nn.Module):
    def __init__(self, width: int = 4, num_classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        dim = width
        for stage, count in enumerate((3, 4, 6, 3), start=1):
            blocks = []
            for i in range(count):
                blocks.append(
                    Block(dim, width * 2 ** (stage - 1), 2 if i == 0 and stage > 1 else 1)
                )
                dim = 4 * width * 2 ** (stage - 1)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 32 width, H/32, W/32)"""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def random_resnet2d(seed: int = 0, **options: int) -> ResNet2d:
    torch.manual_seed(seed)
    model = ResNet2d(**options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.bias, module.running_mean):
                nn.init.normal_(value, std=0.2)
            for value in (module.weight, module.running_var):
                nn.init.uniform_(value, 0.5, 1.2)
    return model
