"""The benchmark of the data path runs, its arms do the same work, and a second call measures nothing again."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IMAGES, BATCH = 40, 8


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/data.py as a module; its own modules are found as they are when it is run as a script."""
    monkeypatch.syspath_prepend(BENCHMARKS / "data_arms")
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "data", raising=False)
    return importlib.import_module("data")


def command(out: Path, work: Path, *more: str) -> list[str]:
    arms = ["--only", "bare,kdray_threads,bare_packed", "--images", str(IMAGES), "--batch", str(BATCH)]
    return [
        "data.py",
        "--out",
        str(out),
        "--work",
        str(work),
        *arms,
        "--rounds",
        "1",
        "--warm-s",
        "0",
        "--cores",
        "1",
        *more,
    ]


def test_arms_of_kdray_and_the_bare_loop(
    data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record.json"
    monkeypatch.setattr(sys, "argv", command(out, tmp_path / "work"))
    data.main()
    record = json.loads(out.read_text())
    case = record["measured"]["photos"]["1"]
    assert set(case) == {"bare", "kdray_threads", "bare_packed"}
    for (found,) in case.values():
        assert found["images"] == IMAGES * (found["passes"] - 1)
        assert found["shapes"] == [[3, 224, 224]] and found["dtypes"] == ["uint8"]
        assert 0 < found["first_batch_s"] <= IMAGES / found["images_per_s"]
        assert found["cpu_s_per_image"] > 0 and found["peak_pss_mb"] > 20
    assert record["ratios"]["photos"]["1"]["kdray_threads / bare"] == pytest.approx(
        case["kdray_threads"][0]["images_per_s"] / case["bare"][0]["images_per_s"]
    )
    capfd.readouterr()
    data.main()
    assert "round" not in capfd.readouterr().out
    assert json.loads(out.read_text())["measured"] == record["measured"]
    monkeypatch.setattr(sys, "argv", command(out, tmp_path / "work", "--seed", "1"))
    with pytest.raises(SystemExit, match="other settings"):
        data.main()


def test_arms_that_do_other_work_are_refused(data: ModuleType) -> None:
    full = {"images": 4000, "passes": 2, "shapes": [[3, 224, 224]], "dtypes": ["uint8"], "mean": 107.0}
    data.check([full, full | {"images": 3968}], 4000, 64)
    with pytest.raises(SystemExit, match="3900 of 4000"):
        data.check([full, full | {"images": 3900}], 4000, 64)
    with pytest.raises(SystemExit, match="4001 of 4000"):
        data.check([full, full | {"images": 4001}], 4000, 64)
    with pytest.raises(SystemExit, match="batches of"):
        data.check([full | {"shapes": [[3, 224, 224], [3, 256, 256]]}, full], 4000, 64)
    data.check_alike("other", full | {"mean": 109.0}, {"bare": [full]})
    with pytest.raises(SystemExit, match="other has pixels"):
        data.check_alike("other", full | {"mean": 90.0}, {"bare": [full]})


def test_photographs_are_the_same_for_the_same_seed(data: ModuleType, tmp_path: Path) -> None:
    photos = sys.modules["photos"]
    originals = photos.sources(None)
    made = [photos.photo(number, 0, originals) for number in range(6)]
    assert len(set(made)) == 6 and made == [photos.photo(number, 0, originals) for number in range(6)]
    assert made[0] != photos.photo(0, 1, originals)
    assert 20_000 < sum(map(len, made)) / 6 < 250_000


def test_every_image_is_in_every_layout(data: ModuleType, tmp_path: Path) -> None:
    import tarfile

    from kdray.data.manifest import read_manifest

    photos, layouts = sys.modules["photos"], sys.modules["data_layouts"]
    originals = photos.sources(None)

    def images():
        return ((f"{number:03d}", number % 2, photos.photo(number, 0, originals)) for number in range(10))

    folder = layouts.make("folder", images, tmp_path)
    kept = {path.stem: path.read_bytes() for path in folder.glob("*/*.jpg")}
    assert kept == {name: image for name, _, image in images()}
    (tar,) = layouts.make("tars", images, tmp_path).glob("*.tar")
    with tarfile.open(tar) as opened:
        assert opened.getnames() == [f"{name}.{suffix}" for name, _, _ in images() for suffix in ("jpg", "cls")]
    original = read_manifest(str(layouts.make("shards", images, tmp_path)))
    packed = read_manifest(str(layouts.make("packed", images, tmp_path)))
    assert original.num_samples == packed.num_samples == 10
    assert packed.image_bytes < original.image_bytes == sum(len(image) for _, _, image in images())
