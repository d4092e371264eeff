"""Two workers see the batches that one would see, and count every image of a test set once."""

from __future__ import annotations

from tests.cluster.conftest import References, assert_last_close, record, same_bits, tensors


def test_weights_do_not_depend_on_the_number_of_workers(references: References) -> None:
    """Group norm, ce + kd + all of clmkd over the global batch: equal but for the order of float32 sums.

    That streaming changes no bit of this run is what the killed ones show, which stream.
    """
    one, two = (tensors(references.runs("groupnorm", workers)) for workers in (1, 2))
    assert_last_close(two, one)
    assert same_bits(two, one) != [], "two workers computed the very same sums: were there two?"


def test_every_test_image_counts_once(references: References) -> None:
    """359 images on 2 workers, in batches of 256, with what batch norm of rank 0 holds."""
    for workers in (1, 2):
        done = record(references.runs("batchnorm", workers))
        assert done["world_size"] == workers
        assert done["test"]["images"] == done["test_best"]["images"] == 359
        hits = 359 * done["test"]["top1"]
        assert abs(hits - round(hits)) < 1e-6, "a fraction of other than 359 images"
