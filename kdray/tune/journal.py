"""What is known of every trial, one whole file each in the run's folder: all that a resumed search starts from.

Ray Tune keeps a state of its own, a pickle that is written now and then and may be older than what was seen. This one
is written at every epoch, and read as plain JSON.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

from kdray.errors import StoreError
from kdray.store import Store
from kdray.tune.trials import Trial

READERS = 16
FOLDER = "trials"


class Journal:
    """Trials under `folder` of `store`. Writing happens on a thread: only the newest form of a trial is written.

    Raises (from `put`, `flush` and `close`):
        StoreError: a write failed.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self.store = store
        self.folder = f"{folder}/{FOLDER}"
        self._waiting: dict[int, str] = {}
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def load(self) -> list[Trial]:
        """All trials, by number.

        Raises:
            StoreError: one that is damaged, or a store that does not answer.
        """
        names = sorted(name for name in self.store.list(self.folder) if name.endswith(".json"))
        with ThreadPoolExecutor(READERS) as pool:
            trials: list[Trial] = list(pool.map(lambda name: self.store.read_json(f"{self.folder}/{name}"), names))
        return sorted(trials, key=lambda trial: trial["number"])

    def put(self, trial: Trial) -> None:
        """Remember `trial` as it is now; written soon."""
        text = json.dumps(trial, ensure_ascii=False, allow_nan=False)
        with self._changed:
            self._raise()
            self._waiting[trial["number"]] = text
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="trial-journal", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is written."""
        with self._changed:
            while (self._waiting or self._busy) and self._error is None:
                self._changed.wait()
            self._raise()

    def close(self) -> None:
        """Write what waits, and end."""
        try:
            self.flush()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            if self._thread is not None:
                self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch, self._waiting, self._busy = self._waiting, {}, True
            try:
                for number, text in sorted(batch.items()):
                    self.store.write_text(f"{self.folder}/{number:05d}.json", text)
            except BaseException as error:  # handed to whoever puts, flushes or closes
                with self._changed:
                    self._error = error if isinstance(error, StoreError) else StoreError(str(error))
                    self._busy = False
                    self._changed.notify_all()
                return
            with self._changed:
                self._busy = False
                self._changed.notify_all()
