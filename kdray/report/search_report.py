"""What a finished search leaves in its run's folder for people to look at: pictures, and TensorBoard's table."""

from __future__ import annotations

from typing import Any

from kdray.report.hparams import write_hparams
from kdray.report.search_pictures import write_pictures
from kdray.store import Store


def report_search(store: Store, folder: str, search: dict[str, Any]) -> None:
    """Write them into the run's `folder`, and say in `search` where they lie.

    Raises:
        StoreError: the store does not take it.
    """
    search["pictures"] = write_pictures(store, folder, search)
    search["tensorboard"] = write_hparams(store, f"{folder}/tensorboard", search)
