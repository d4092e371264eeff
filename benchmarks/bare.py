"""What a user would write instead: bare PyTorch distillation loops, for `benchmarks/train.py` to compare with.

Not kdray's loop in disguise: no checkpoints, no metrics beyond the loss, no resume, no guards.
"""

from __future__ import annotations

import argparse
import io
import json
import time

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdray.experiment import ModelSpec
from kdray.models.weights import load_weights
from kdray.models.zoo import build

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def read(uri: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `limit` images uint8 [n, 32, 32, 3] and labels int64 [n] of a Parquet file."""
    table = pq.read_table(uri, columns=["image", "label"]).slice(0, limit)
    images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in table["image"].to_pylist()]
    return np.stack(images), table["label"].to_numpy()


def kd_loss(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """CE + KD at temperature 4."""
    soft = F.kl_div(F.log_softmax(student / 4, 1), F.softmax(teacher / 4, 1), reduction="batchmean") * 16
    return F.cross_entropy(student, labels) + soft


def nets(teacher_weights: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """ResNet-56 teacher and ResNet-20 student as plain modules."""
    teacher = build(ModelSpec(model="resnet56"), 100, 32)
    load_weights(teacher, teacher_weights)
    return teacher.backbone.eval().requires_grad_(False), build(ModelSpec(model="resnet20"), 100, 32).backbone.train()


def same_format(images: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> list[float]:
    """bf16 autocast and channels_last, data resident and augmented in batches: the loop that an expert would write."""
    teacher, student = (net.to(memory_format=torch.channels_last) for net in nets(args.teacher))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    padded = torch.from_numpy(np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0))))
    targets = torch.from_numpy(labels)
    mean, std = (torch.tensor(v).mul(255).view(1, 3, 1, 1) for v in (MEAN, STD))
    rates = []
    for _ in range(args.epochs):
        order, started = torch.randperm(len(images)), time.perf_counter()
        for first in range(0, len(order) - args.batch + 1, args.batch):
            rows = order[first : first + args.batch]
            dy, dx = torch.randint(0, 9, (2, args.batch, 1))
            ys, xs = dy + torch.arange(32), dx + torch.arange(32)
            xs = torch.where(torch.rand(args.batch, 1) < 0.5, xs.flip(1), xs)
            crops = padded[rows[:, None, None], ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)
            x = ((crops.float() - mean) / std).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    soft = teacher(x)
                logits = student(x)
            loss = kd_loss(logits.float(), soft.float(), targets[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        steps = len(order) // args.batch
        rates.append(steps * args.batch / (time.perf_counter() - started))
    return rates


class Images(Dataset):
    """CIFAR as today's code reads it: PIL images through torchvision transforms, one by one."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[row])), int(self.labels[row])


def research_code(images: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> list[float]:
    """float32, NCHW, a DataLoader with workers: what the public distillation code bases run."""
    teacher, student = nets(args.teacher)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(Images(images, labels), args.batch, shuffle=True, num_workers=args.loader_workers)
    rates = []
    for _ in range(args.epochs):
        started, seen = time.perf_counter(), 0
        for x, y in loader:
            with torch.no_grad():
                soft = teacher(x)
            loss = kd_loss(student(x), soft, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # every one of them logs the loss of every step
            seen += len(y)
        rates.append(seen / (time.perf_counter() - started))
    return rates


def main() -> None:
    """Run one loop and print its images/s by epoch as JSON."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("loop", choices=("same_format", "research_code"))
    cli.add_argument("--data", required=True)
    cli.add_argument("--teacher", required=True)
    cli.add_argument("--images", type=int, required=True)
    cli.add_argument("--batch", type=int, default=64)
    cli.add_argument("--epochs", type=int, default=3)
    cli.add_argument("--loader-workers", type=int, default=2)
    args = cli.parse_args()
    images, labels = read(args.data, args.images)
    loop = same_format if args.loop == "same_format" else research_code
    print(json.dumps(loop(images, labels, args)))


if __name__ == "__main__":
    main()
