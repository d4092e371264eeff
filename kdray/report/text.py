"""Numbers of a record as people read them."""

from __future__ import annotations


def percent(result: dict[str, float] | None) -> str:
    """Top-1 accuracy in percent, a dash where nothing was evaluated; neighbours' accuracy is called by its name."""
    if result and "top1" not in result:
        return f"kNN {100 * result['knn']:.2f} %"
    return f"{100 * result['top1']:.2f} %" if result else "-"


def duration(seconds: float) -> str:
    """Seconds as 12.3s, 4m05s or 3h07m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{seconds:.1f}s"


def size(count: float) -> str:
    """`count` bytes as 812 B, 4.5 KiB, 113 MiB."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1000 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.0f} {units[0]}" if units[0] == "B" or count >= 100 else f"{count:.1f} {units[0]}"
