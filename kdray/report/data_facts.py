"""What `kdray data show` prints of a set: what is in it, what a look at its images found, and what needs a second look.

Each line says whether it was counted over everything or seen in a sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len

from kdray.data.layout import Manifest
from kdray.data.pack.progress import size_text
from kdray.report.data_cells import normalisation_text, transforms_text, way_text
from kdray.report.data_limits import too_large
from kdray.report.data_sample import Look
from kdray.report.data_subject import Subject

FEW_CLASSES, FEW = 12, 5
DIGEST = 12  # digits that are told: enough to tell versions of a set apart
QUANTILES = (0.05, 0.5, 0.95)  # of the shorter side, out of those that a manifest tells
UNEQUAL = 10  # times: a warning where the largest class is so many times the smallest
_KEY_WIDTH = 14

Fact = tuple[str, str]


def facts(subject: Subject, look: Look) -> list[Fact]:
    """(key, text) of every line; a key of "" goes on from the one before."""
    manifest, counts = subject.manifest, class_counts(subject)
    lines = [("set", manifest.uri), ("digest", manifest.fingerprint[:DIGEST]), ("rows", _rows(subject))]
    lines += [("", text) for text in _chosen(subject)]
    lines += _packing(manifest)
    lines.append(("classes", _classes(subject, counts)))
    shards = len(manifest.shards)
    stored = sum(shard.bytes for shard in manifest.shards)
    mean_bytes = manifest.image_bytes / max(1, manifest.num_samples)
    lines.append(("shards", f"{shards}, {size_text(stored)} in all; {size_text(mean_bytes)} an image in the mean"))
    lines += _sizes(manifest, look)
    lines.append(("formats", f"{_listed(look.kinds)} (in {_seen(look, len(look.headers))})"))
    lines.append(("ids", _ids(manifest)))
    lines.append(("mean and std", normalisation_text(subject)))
    for number, way in enumerate(subject.ways):
        lines.append(("" if number else "training", f"{f'{way.name}: ' if way.name else ''}{way_text(way)}"))
    if subject.data.eval_transform:
        lines.append(("evaluation", transforms_text(subject.data.eval_transform)))
    lines.append(("decoded", _decoded(subject, look)))
    return lines


def warnings(subject: Subject, look: Look) -> list[str]:
    """What a person should know before spending on this data."""
    manifest, counts = subject.manifest, class_counts(subject)
    found = []
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        found.append(f"{_count(len(empty), 'has', 'have', 'class', 'classes')} no image here: {_names(subject, empty)}")
    there = counts[counts > 0]
    if len(there) > 1 and there.max() >= UNEQUAL * there.min():
        low, high = _least(counts), int(counts.argmax())
        found.append(
            f"classes are very unequal: {counts[high]} images of {subject.class_name(high)}, "
            f"{counts[low]} of {subject.class_name(low)}"
        )
    if subject.num_classes == 1:
        found.append("there is one class: a classifier has nothing to tell apart")
    if look.bad:
        which = [f"{manifest.position(row)} ({reason})" for row, reason in sorted(look.bad.items())[:FEW]]
        more = f" and {len(look.bad) - FEW} more" if len(look.bad) > FEW else ""
        found.append(
            f"{_count(len(look.bad), 'does', 'do')} not decode, of {look.decoded} tried: {', '.join(which)}{more}; "
            f"training stops where more than {subject.data.max_bad_fraction:g} of all do not (data.max_bad_fraction)"
        )
    found += _too_large(subject, look)
    if manifest.bad:
        files = ", ".join(f"{bad.path} ({bad.reason})" for bad in manifest.bad[:FEW])
        more = f" and {len(manifest.bad) - FEW} more" if len(manifest.bad) > FEW else ""
        found.append(
            f"{_count(len(manifest.bad), 'was', 'were', 'file', 'files')} left out when it was packed: {files}{more}"
        )
    turned = sum(header.turned for header in look.headers.values())
    if turned:
        found.append(f"{_count(turned, 'has', 'have')} an EXIF orientation, of {_seen(look)}: it is not applied")
    if look.twins:
        found.append(_twins(subject, look))
    return found


def class_counts(subject: Subject) -> np.ndarray:
    """Rows of every class among those that are looked at, by the labels that training sees: int64 [C]."""
    return np.bincount(subject.trained[subject.part.rows], minlength=subject.num_classes)


def fact_lines(lines: Sequence[Fact]) -> list[str]:
    """The facts as aligned lines of text."""
    width = max(_KEY_WIDTH, *(cell_len(key) + 2 for key, _ in lines))
    return [f"{key}{' ' * (width - cell_len(key))}{text}" for key, text in lines]


def _rows(subject: Subject) -> str:
    part, whole = len(subject.part), subject.manifest.num_samples
    if subject.split is None:
        return f"{part}" + (f" of {whole}, as --set says" if part < whole else "")
    return f"{part}, the {subject.split} split" + (f", of {whole} rows in the shards" if part < whole else "")


def _chosen(subject: Subject) -> list[str]:
    data = subject.data
    lines = []
    if subject.split in (None, "train") and data.fraction < 1:
        lines.append(f"{data.fraction:g} of every class (data.fraction)")
    if subject.part.relabelled is not None and data.label_noise is not None:
        noise = data.label_noise
        lines.append(f"label noise ({noise.type}, {noise.fraction:g}) changes {subject.part.labels_changed} labels")
    return lines


def _packing(manifest: Manifest) -> list[Fact]:
    packing = manifest.packing
    if packing is None:
        return []
    text = f"from {packing.kind}, in {packing.order} order, by kdray {packing.kdray}; "
    if packing.short_side is None:
        text += "every image's bytes as they were"
    else:
        text += (
            f"short side {packing.short_side}, JPEG quality {packing.quality}: {packing.reencoded} images re-encoded"
        )
        text += ", smaller ones as they were" if packing.small == "keep" else ""
    return [("packed", text)]


def _classes(subject: Subject, counts: np.ndarray) -> str:
    known = "" if subject.class_names else " without names"
    if len(counts) <= FEW_CLASSES:
        each = ", ".join(f"{subject.class_name(label)} ({count})" for label, count in enumerate(counts.tolist()))
        return f"{len(counts)}{known}: {each}"
    low, high = int(counts.argmin()), int(counts.argmax())
    text = f"{len(counts)}{known}: images in each from {counts[low]} ({subject.class_name(low)}) "
    text += f"to {counts[high]} ({subject.class_name(high)}), median {np.median(counts):g}"
    if counts[low] == counts[high]:
        text = f"{len(counts)}{known}: {counts[low]} images in each"
    return f"{text}; {_names(subject, np.arange(len(counts)))}" if subject.class_names else text


def _names(subject: Subject, labels: np.ndarray) -> str:
    names = [subject.class_name(label) for label in labels[:FEW].tolist()]
    return ", ".join(names) + (", ..." if len(labels) > FEW else "")


def _least(counts: np.ndarray) -> int:
    there = np.flatnonzero(counts)
    return int(there[counts[there].argmin()])


def _sizes(manifest: Manifest, look: Look) -> list[Fact]:
    known = manifest.sizes
    if known is not None:
        (low_w, mean_w, high_w), (low_h, mean_h, high_h) = known.width, known.height
        sides = ", ".join(f"{100 * part:g} % {side}" for part, side in known.short_side if part in QUANTILES)
        text = f"width {low_w} to {high_w}, mean {mean_w:.0f}; height {low_h} to {high_h}, mean {mean_h:.0f}"
        return [
            ("sizes", f"{text} (manifest, all images)"),
            *([("", f"shorter side at most: {sides}")] if sides else []),
        ]
    if not look.headers:
        return []
    sizes = np.array([[header.width, header.height] for header in look.headers.values()])
    shapes = np.unique(sizes, axis=0)
    said = _seen(look, len(sizes))
    if len(shapes) == 1:
        return [("sizes", f"{shapes[0, 0]} x {shapes[0, 1]} ({said})")]
    (low_w, low_h), (high_w, high_h), (mean_w, mean_h) = sizes.min(0), sizes.max(0), sizes.mean(0)
    text = f"width {low_w} to {high_w}, mean {mean_w:.0f}; height {low_h} to {high_h}, mean {mean_h:.0f}"
    return [("sizes", f"{text} (headers of {said})")]


def _ids(manifest: Manifest) -> str:
    if manifest.columns.id is None:
        return "no id column: a sample is known by its shard and row, so shards must stay as they are"
    return f"column {manifest.columns.id!r}"


def _decoded(subject: Subject, look: Look) -> str:
    from kdray.data.feed import will_stream  # it brings torch, which takes longer than all the rest: last

    rows = len(subject.part)
    about = f"about {size_text(rows * look.mean_decoded)}; " if look.mean_decoded is not None else ""
    streams = will_stream(subject.data, subject.manifest, rows)
    limit = f" (resident up to {size_text(subject.data.resident_limit_bytes)})" if subject.data.mode == "auto" else ""
    return f"{about}mode {subject.data.mode}: {'streamed' if streams else 'resident'}{limit}"


def _twins(subject: Subject, look: Look) -> str:
    copies = sum(len(group) - 1 for group in look.twins)
    torn = [group for group in look.twins if len(set(subject.stored[group].tolist())) > 1]
    pair = (torn or look.twins)[0]
    where = " and ".join(subject.manifest.position(row) for row in pair[:2])
    text = f"{_count(copies, 'has', 'have')} the very bytes of another, of {_seen(look)}"
    if torn:
        text += f", {len(torn)} time{'s' * (len(torn) > 1)} under another label"
    return f"{text}: {where}"


def _too_large(subject: Subject, look: Look) -> list[str]:
    found = []
    for what, rows in too_large(subject, look).items():
        row, (width, height) = next(iter(rows.items()))
        header = look.headers[row]
        example = f"{subject.manifest.position(row)} ({header.width} x {header.height}, to become {width} x {height})"
        which = _count(len(rows), "would become", "would become")
        found.append(f"{which} too large by {what}, of {_seen(look)}, and so counts as bad: {example}")
    return found


def _seen(look: Look, number: int | None = None) -> str:
    """ "all 200 images", "12 of all 14 images", "a sample of 8000 images": what was looked at, `number` of it."""
    text = f"all {look.rows} images" if look.whole else f"a sample of {look.rows} images"
    return text if number in (None, look.rows) else f"{number} of {text}"


def _count(number: int, one: str, many: str, noun: str = "image", nouns: str = "images") -> str:
    """ "1 image is", "2 images are"."""
    return f"{number} {noun} {one}" if number == 1 else f"{number} {nouns} {many}"


def _listed(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    few = counts.most_common(FEW + 1)
    parts = [f"{name} {count}" for name, count in few] + [f"{len(counts) - len(few)} more"] * (len(counts) > len(few))
    return ", ".join(parts) or "none that is known"
