"""Everything that kdray keeps or fetches by name: a local path, `s3://bucket/prefix` or `gs://bucket/prefix`.

    store = Store("s3://bucket/runs")
    store.check_writable()
    store.write_json("mnist/plan.json", {"stages": 3})

Every write is whole or absent: a reader never meets half a file, whatever happened to the writer. Endpoint, region and
credentials come from the environment (`AWS_ENDPOINT_URL_S3`, `AWS_REGION`, profiles, instance roles), never from the
experiment. All failures are `kdray.errors.StoreError`, one line each with the way out.
"""

from kdray.store.store import Store, exists_uri, open_uri, read_range, read_uri

__all__ = ["Store", "exists_uri", "open_uri", "read_range", "read_uri"]
