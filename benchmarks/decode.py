"""Images per CPU-second of decoding and of RandomResizedCrop(224) and flip, in one thread, and how true the pixels are.

    OMP_NUM_THREADS=1 python benchmarks/decode.py --data SHARDS_OR_FOLDER --out benchmarks/records/decode-NAME.json
    python benchmarks/decode.py --table

Every pipeline cuts the same boxes out of the same JPEGs and flips the same ones. The arms take turns, round after
round, and the medians of the ratios to the bare decoder are kept; how far pixels are off is said in grey levels of
Pillow's.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, features
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as v2

from kdray.data.augment import build_augment
from kdray.data.chunks import Growing, Recipe
from kdray.data.decode import decode
from kdray.data.manifest import read_manifest
from kdray.data.reader import read_rows
from kdray.data.transforms import RandomResizedCrop
from kdray.pipeline.record import hardware, now, versions

RECORDS = Path(__file__).parent / "records"
SIZE = 224
COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENT = build_augment([{"random_resized_crop": {"size": SIZE}}, "flip"])

Box = tuple[int, int, int, int, bool]  # top, left, height, width, whether to flip
Arm = Callable[[bytes, Box], object]


def pillow(data: bytes) -> Image.Image:
    """Decode as torchvision's ImageFolder does."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def opencv(data: bytes) -> np.ndarray:
    """Decode to uint8 [H, W, 3]."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), COLOUR)
    assert image is not None
    return image


def torchvision(data: bytes) -> torch.Tensor:
    """Decode to uint8 [3, H, W]."""
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)


def pillow_v2(data: bytes, box: Box) -> torch.Tensor:
    """What most training scripts do: float, normalised on the CPU."""
    image = v2.resized_crop(pillow(data), *box[:4], [SIZE, SIZE])
    image = v2.horizontal_flip(image) if box[4] else image
    return v2.normalize(v2.to_dtype(v2.to_image(image), torch.float32, scale=True), MEAN, STD)


def pillow_v2_uint8(data: bytes, box: Box) -> torch.Tensor:
    """The same, normalised later on the device."""
    image = v2.resized_crop(pillow(data), *box[:4], [SIZE, SIZE])
    return v2.pil_to_tensor(v2.horizontal_flip(image) if box[4] else image)


def torchvision_v2(data: bytes, box: Box) -> torch.Tensor:
    """Tensors all the way, uint8."""
    image = v2.resized_crop(torchvision(data), *box[:4], [SIZE, SIZE], antialias=True)
    return v2.horizontal_flip(image) if box[4] else image


def opencv_resized(data: bytes, box: Box, shrinking: int) -> np.ndarray:
    """OpenCV all the way; `shrinking` is the filter of crops whose sides both shrink."""
    top, left, height, width, flip = box
    crop = opencv(data)[top : top + height, left : left + width]
    kind = shrinking if min(height, width) >= SIZE else cv2.INTER_LINEAR
    image = cv2.resize(crop, (SIZE, SIZE), interpolation=kind)
    return cv2.flip(image, 1) if flip else image


ARMS: dict[str, Arm] = {
    "decode: OpenCV": lambda data, box: opencv(data),
    "decode: Pillow": lambda data, box: pillow(data),
    "decode: torchvision.io": lambda data, box: torchvision(data),
    "decode: kdray": lambda data, box: decode(data),
    "Pillow, torchvision v2, float": pillow_v2,
    "Pillow, torchvision v2, uint8": pillow_v2_uint8,
    "torchvision.io, v2, uint8": torchvision_v2,
    "OpenCV, INTER_AREA": lambda data, box: opencv_resized(data, box, cv2.INTER_AREA),
    "OpenCV, INTER_LINEAR": lambda data, box: opencv_resized(data, box, cv2.INTER_LINEAR),
}
KDRAY = "kdray, to the batch"
LIMIT = "decode: OpenCV"


def load(uri: str, most: int) -> list[bytes]:
    """The encoded JPEGs of a folder of image files, or of shards."""
    files = sorted(path for path in Path(uri).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if files:
        return [path.read_bytes() for path in files[:most]]
    manifest = read_manifest(uri)
    return read_rows(manifest, np.arange(min(most, manifest.num_samples))).images


def measure(images: list[bytes], rounds: int) -> dict[str, list[float]]:
    """Images per CPU-second of every arm, in every round."""
    ids = np.arange(len(images))
    recipe = Recipe(None, AUGMENT)  # type: ignore[arg-type]  # nothing asks where these images lie
    boxes = boxes_of(images)
    found: dict[str, list[float]] = {name: [] for name in [*ARMS, KDRAY]}
    for number in range(rounds + 1):
        for name in found:
            started = time.process_time()
            if name == KDRAY:
                Growing(lambda i: decode(images[i]), ids, ids, ids, recipe).made()
            else:
                for data, box in zip(images, boxes, strict=True):
                    ARMS[name](data, box)
            if number:  # the first is to warm up
                found[name].append(len(images) / (time.process_time() - started))
    return found


def boxes_of(images: list[bytes]) -> list[Box]:
    """Where kdray's own random numbers cut each image."""
    crop = AUGMENT.ops[0]
    assert isinstance(crop, RandomResizedCrop)
    draws = AUGMENT.draw(0, 0, np.arange(len(images)), 0)
    sizes = [pillow(data).size[::-1] for data in images]
    return [(*crop.box(u[: crop.draws], size), bool(u[crop.draws] < 0.5)) for u, size in zip(draws, sizes, strict=True)]


def errors(images: list[bytes]) -> dict[str, dict[str, float]]:
    """Grey levels that the uint8 pipelines are off Pillow's: the largest, and the mean."""
    boxes = boxes_of(images)
    draws = AUGMENT.draw(0, 0, np.arange(len(images)), 0)
    off: dict[str, list[np.ndarray]] = {}
    for i, (data, box) in enumerate(zip(images, boxes, strict=True)):
        expected = pillow_v2_uint8(data, box).permute(1, 2, 0).numpy().astype(int)
        for name in [name for name in ARMS if not name.startswith("decode") and "float" not in name] + [KDRAY]:
            if name == KDRAY:
                got = AUGMENT.apply(decode(data), draws[i])
            else:
                made = ARMS[name](data, box)
                got = made.permute(1, 2, 0).numpy() if isinstance(made, torch.Tensor) else np.asarray(made)
            off.setdefault(name, []).append(np.abs(got.astype(int) - expected))
    return {
        name: {"max": int(max(d.max() for d in all_of)), "mean": round(float(np.mean([d.mean() for d in all_of])), 3)}
        for name, all_of in off.items()
    }


def table(record: dict) -> list[str]:
    """The table of docs/augment.md."""
    lines = ["| | images per CPU-second | of the bare decoder | grey levels off: largest, mean |", "|---|---|---|---|"]
    for name, values in record["images_per_cpu_s"].items():
        off = record["grey_levels_off_pillow"].get(name)
        said = f"{off['max']}, {off['mean']:.2f}" if off else ""
        lines.append(f"| {name} | {statistics.median(values):.0f} | {record['ratios'][name]:.2f} | {said} |")
    return lines


def main() -> None:
    """Measure and write the record, or print the table of the committed one."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", help="shards, or a folder of JPEG files")
    cli.add_argument("--name", default="photographs", help="what these images are, for the record")
    cli.add_argument("--images", type=int, default=300)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--out", type=Path)
    cli.add_argument("--table", action="store_true", help="print the table of decode-cpu.json")
    args = cli.parse_args()
    if args.table:
        print("\n".join(table(json.loads((RECORDS / "decode-cpu.json").read_text()))))
        return
    if not args.data or not args.out:
        cli.error("--data and --out are needed")
    torch.set_num_threads(1)
    images = load(args.data, args.images)
    found = measure(images, args.rounds)
    record = {
        "command": "benchmarks/decode.py",
        "data": args.name,
        "seed": 0,
        "when": now(),
        "settings": {
            "images": len(images),
            "mean_bytes": round(statistics.mean(map(len, images))),
            "mean_pixels": round(statistics.mean(w * h for w, h in (pillow(data).size for data in images))),
            "size": SIZE,
            "rounds": args.rounds,
        },
        "hardware": hardware(),
        "versions": versions() | {"pillow": version("pillow"), "pillow_libjpeg": features.version("libjpeg_turbo")},
        "images_per_cpu_s": {name: [round(value, 1) for value in values] for name, values in found.items()},
        "ratios": {
            name: round(statistics.median(a / b for a, b in zip(values, found[LIMIT], strict=True)), 3)
            for name, values in found.items()
        },
        "grey_levels_off_pillow": errors(images),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(table(record)))


if __name__ == "__main__":
    main()
