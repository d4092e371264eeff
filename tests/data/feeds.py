"""Feeds over the small sets, as the feeds' tests ask for them."""

from __future__ import annotations

import threading

import numpy as np

from kdray.data.feed import eval_feed, train_feed

from .small import data

CIFAR = ["pad_crop", "flip"]
ROTATED = [{"flip": {"same": True}}, "rot90_views", "pad_crop"]
IMAGENET = [{"random_resized_crop": {"size": 24}}, "flip"]
MODES = ("stream", "resident")
N = 203


def feed(manifest, mode, augment=CIFAR, *, rows=None, batch=20, seed=3, rank=0, world=1, labels=None, **settings):
    rows = np.arange(manifest.num_samples) if rows is None else rows
    settings = {"shuffle_window_bytes": 40_000, **settings}
    options = {"batch": batch, "seed": seed, "rank": rank, "world": world, "labels": labels}
    return train_feed(data(manifest, mode=mode, augment=augment, **settings), manifest, rows, **options)


def evaluation(manifest, mode, transform=(), *, rows=None, batch=16, rank=0, world=1):
    rows = np.arange(manifest.num_samples) if rows is None else rows
    section = data(manifest, mode=mode, eval_transform=list(transform))
    return eval_feed(section, manifest, rows, batch=batch, rank=rank, world=world)


def workers() -> list[threading.Thread]:
    """The threads that feeds run now; those that send requests are the process's, and stay."""
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("kdray-")]
    return [thread for thread in mine if not thread.name.startswith("kdray-requests")]
