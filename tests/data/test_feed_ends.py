"""What the feeds refuse, how their threads end, which of them is chosen, and what becomes of the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdray.data.batch import normalise
from kdray.data.feed import eval_feed, will_stream
from kdray.data.manifest import Manifest
from kdray.data.reader import read_rows
from kdray.errors import ConfigError, DataError, KdrayError

from .feeds import CIFAR, MODES, evaluation, feed, workers
from .small import data, squares


@pytest.mark.parametrize("mode", MODES)
def test_images_of_several_sizes_are_an_error_with_a_way_out(photos, mode) -> None:
    with pytest.raises(DataError) as error:
        list(feed(photos, mode, CIFAR).epoch(0))
    assert "images come out in different sizes: " in str(error.value) and "random_resized_crop" in str(error.value)
    assert error.value.where == "data.augment"
    with pytest.raises(DataError, match=r"data\.augment: an image's views come out in different sizes: .* as 32 x "):
        turned = [{"resize": {"size": 32}}, "rot90_views"]
        list(feed(photos, mode, turned, views=2, rows=np.arange(20)).epoch(0))
    with pytest.raises(DataError, match=r"data\.eval_transform: images come out in different sizes"):
        list(evaluation(photos, mode))
    with pytest.raises(DataError, match=r"data\.eval_transform: center_crop on .*parquet row \d+: an image of"):
        list(evaluation(photos, mode, [{"center_crop": {"size": 300}}]))


@pytest.mark.parametrize("mode", MODES)
def test_a_truncated_shard_is_an_error(tmp_path, mode) -> None:
    manifest = squares(tmp_path / "set", 40)
    shard = tmp_path / "set" / manifest.shards[0].name
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut off or changed"):
        list(feed(manifest, mode).epoch(0))


def test_batches_that_cannot_be_are_refused(small) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch: a batch of 20 cannot be shared evenly by 3 workers"):
        feed(small, "resident", world=3)
    with pytest.raises(DataError, match=r"203 training images do not fill one batch of 204.*data\.validation"):
        feed(small, "resident", batch=204)
    with pytest.raises(ConfigError, match=r"data\.augment\.0"):
        feed(small, "resident", ["padcrop"])
    with pytest.raises(ConfigError, match="flip is random"):
        evaluation(small, "stream", ["flip"])
    for mode in MODES:
        with pytest.raises(ConfigError, match=r"data\.augment\.0\.flip\.views: there is no view 2: data\.views is 2"):
            feed(small, mode, [{"flip": {"views": [2]}}], views=2)


def test_threads_end_with_the_epoch_or_when_it_is_left_early(small) -> None:
    whole = feed(small, "stream").epoch(0)
    list(whole)
    assert not workers()
    left = feed(small, "stream").epoch(0)
    next(left)
    assert workers()
    left.close()
    assert not workers()


def test_an_error_in_a_thread_arrives_after_what_came_before_it(small, monkeypatch) -> None:
    reads = []

    def fail_late(manifest, index):
        reads.append(len(index))
        if len(reads) > 2:
            raise KdrayError("the disk is on fire")
        return read_rows(manifest, index)

    monkeypatch.setattr("kdray.data.threads.read_rows", fail_late)
    seen = 0
    with pytest.raises(KdrayError, match="the disk is on fire"):
        for batch in feed(small, "stream").epoch(0):
            seen += len(batch.labels)
    assert sum(reads[:2]) - 20 < seen <= sum(reads[:2])
    assert not workers()


def test_auto_chooses_by_decoded_size(tmp_path) -> None:
    flat = squares(tmp_path / "set", 50, flat=True)
    decoded = 50 * 16 * 16 * 3
    assert will_stream(data(flat, mode="stream"), flat)
    assert not will_stream(data(flat, mode="resident", resident_limit_bytes=1), flat)
    assert not will_stream(data(flat, resident_limit_bytes=decoded), flat)
    assert will_stream(data(flat, resident_limit_bytes=decoded - 1), flat)
    assert not will_stream(data(flat, resident_limit_bytes=decoded // 2), flat, rows=25)
    enlarged = {"eval_transform": [{"resize": {"size": 64}}, {"center_crop": {"size": 64}}]}
    kept = flat.num_samples * 64 * 64 * 3
    assert will_stream(data(flat, resident_limit_bytes=kept - 1, **enlarged), flat, judged=True)
    assert not will_stream(data(flat, resident_limit_bytes=kept, **enlarged), flat, judged=True)
    assert not will_stream(data(flat, resident_limit_bytes=kept - 1, **enlarged), flat)
    assert will_stream(data(flat, resident_limit_bytes=10), flat)
    for limit, kind in ((decoded, "Resident"), (decoded - 1, "Stream")):
        made = (
            feed(flat, "auto", resident_limit_bytes=limit),
            eval_feed(data(flat, resident_limit_bytes=limit), flat, np.arange(50), batch=10),
        )
        assert [type(one).__name__ for one in made] == [f"{kind}TrainFeed", f"{kind}EvalFeed"]


def test_auto_reads_nothing_where_nothing_can_be_read(small) -> None:
    shard = replace(small.shards[0], bytes=0, rows=10**7, row_groups=(10**7,))
    assert will_stream(data(small), Manifest.declared(shard, num_classes=10))
    small_one = Manifest.declared(replace(shard, rows=50_000, row_groups=(50_000,)), num_classes=10)
    assert not will_stream(data(small), small_one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_normalise(dtype, layout) -> None:
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8).contiguous(memory_format=layout)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    got = normalise(images, mean, std, dtype)
    assert got.dtype == dtype and got.is_contiguous(memory_format=layout)
    expected = (images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    tolerance = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(dtype, 1e-6)
    assert ((got.double() - expected).abs() <= tolerance * expected.abs().clamp(min=1)).all()
