"""What a finished search leaves for people to look at: pictures, TensorBoard's table, MLflow's runs."""

from __future__ import annotations

from typing import Any

from kdray.report.hparams import write_hparams
from kdray.report.mlflow_export import export_mlflow
from kdray.report.search_pictures import write_pictures
from kdray.store import Store


def report_search(
    store: Store, folder: str, search: dict[str, Any], record: dict[str, Any], mlflow: str | None
) -> None:
    """Write them into the run's `folder`, and say in `search` where they lie.

    Raises:
        StoreError: the store, or MLflow, does not take it.
    """
    search["pictures"] = write_pictures(store, folder, search)
    search["tensorboard"] = write_hparams(store, f"{folder}/tensorboard", search)
    if mlflow is not None:
        search["mlflow"] = export_mlflow(search, record, mlflow)
