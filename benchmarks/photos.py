"""Photo-sized JPEGs to measure with, made of a few real photographs: 500 x 375 on average, near ImageNet's bytes.

    python benchmarks/photos.py --work FOLDER --count 4000 --data SHARDS

Every one is a crop of a source at its own zoom and size, maybe mirrored, with small changes of colour and a camera's
grain (enlarging alone would leave photographs smoother, and their files smaller, than a camera's). The sources are
scikit-learn's two sample photographs and, with `--data`, those of the shards there. Same count, seed and sources: same
bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

QUALITY = 90
LONG_SIDE, SHORTEST, LONGEST = (510, 70), 240, 1024  # mean and spread of the long side, then bounds of any side
ASPECTS, SHARES = (4 / 3, 3 / 2, 1.0, 3 / 4, 2 / 3), (0.6, 0.2, 0.05, 0.1, 0.05)
GRAIN = 16.0
CLASSES = 10


def sources(data: str | None) -> list[np.ndarray]:
    """The photographs that the others are cut from, uint8 [H, W, 3] RGB."""
    from sklearn.datasets import load_sample_images

    found = [np.asarray(image) for image in load_sample_images().images]
    if data is not None:
        from kdray.data.decode import decode
        from kdray.data.manifest import read_manifest
        from kdray.data.reader import read_rows

        manifest = read_manifest(data)
        found += [decode(image) for image in read_rows(manifest, np.arange(manifest.num_samples)).images]
    return found


def photo(number: int, seed: int, originals: list[np.ndarray]) -> bytes:
    """Photograph `number` as a JPEG."""
    rng = np.random.default_rng([seed, number])
    whole = originals[int(rng.integers(len(originals)))]
    aspect = float(rng.choice(ASPECTS, p=SHARES))
    long = float(np.clip(rng.normal(*LONG_SIDE), SHORTEST * 3 / 2, LONGEST))
    width, height = (round(long), round(long / aspect)) if aspect >= 1 else (round(long * aspect), round(long))
    share = min(whole.shape[1] / width, whole.shape[0] / height) * rng.uniform(0.6, 1.0)
    w, h = max(1, int(width * share)), max(1, int(height * share))
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(whole.shape, (h, w), strict=False))
    how = cv2.INTER_AREA if share > 1 else cv2.INTER_CUBIC
    image = cv2.resize(whole[top : top + h, left : left + w], (width, height), interpolation=how).astype(np.float32)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    image = image * rng.uniform(0.9, 1.1, 3).astype(np.float32) + np.float32(rng.uniform(-15, 15))
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(GRAIN * rng.uniform(0.2, 1.0))
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def make(folder: Path, count: int, seed: int, data: str | None, processes: int = 2) -> Path:
    """Make the photographs as files of `folder`/photos-..., unless they are there; return that folder."""
    originals = sources(data)
    digest = hashlib.blake2b(digest_size=6)
    for image in originals:
        digest.update(image.tobytes())
    digest.update(Path(__file__).read_bytes())
    target = folder / f"photos-{count}-{seed}-{digest.hexdigest()}"
    if target.exists():
        return target
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    with ThreadPoolExecutor(processes) as pool:  # numpy and OpenCV let go of the interpreter; a fork may never end
        for number, jpeg in enumerate(pool.map(partial(photo, seed=seed, originals=originals), range(count))):
            (part / f"{number:06d}.jpg").write_bytes(jpeg)
    part.rename(target)
    return target


def read(folder: Path) -> Iterator[tuple[str, int, bytes]]:
    """Name, label and bytes of the photographs in `folder`."""
    for path in sorted(folder.glob("*.jpg")):
        yield path.stem, int(path.stem) % CLASSES, path.read_bytes()


def main() -> None:
    """Make them and say what they are like."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--count", type=int, default=4000)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--data")
    args = cli.parse_args()
    folder = make(args.work, args.count, args.seed, args.data)
    sizes = np.array([len(image) for _, _, image in read(folder)])
    print(f"{folder}: {len(sizes)} files of {sizes.mean() / 1e3:.0f} kB ({sizes.min()}..{sizes.max()})")


if __name__ == "__main__":
    main()
