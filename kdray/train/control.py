"""The line between a training worker and the command: progress one way, a wish to stop the other."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger(__name__)
POLL_S = 0.5


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Control:
    """Holds the events that the command has not read yet, and the stop flag."""

    def __init__(self) -> None:
        self.events: deque[tuple[str, dict[str, Any]]] = deque(maxlen=10_000)
        self.stop = False

    def push(self, kind: str, values: dict[str, Any]) -> None:
        """Take one event from a worker."""
        self.events.append((kind, values))

    def exchange(self, stop: bool) -> list[tuple[str, dict[str, Any]]]:
        """Give all events not yet read, oldest first; `stop` asks the workers to save their state and end."""
        self.stop = stop
        events = list(self.events)
        self.events.clear()
        return events

    def stopped(self) -> bool:
        """True once a stop was asked for."""
        return self.stop


def start_control() -> Any:
    """A control actor on the command's own node: no other node that goes away takes it along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Control.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]


class RemoteListener:
    """A loop's listener inside a Ray worker: events go to the control actor, a thread polls its stop flag."""

    def __init__(self, control: Any) -> None:
        self.control = control
        self._stop = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="stop-poll", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._closed.wait(POLL_S):
            try:
                if ray.get(self.control.stopped.remote(), timeout=30):
                    self._stop.set()
                    return
            except ray.exceptions.GetTimeoutError:
                continue  # a busy machine: asked again
            except ray.exceptions.RayError as error:
                # The command is gone, and Ray ends its workers with it.
                log.warning("the command that started this run does not answer (%s)", type(error).__name__)
                return

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Send an event without waiting for it to arrive."""
        self.control.push.remote(kind, values)

    def stop_requested(self) -> bool:
        """True once the user asked for a stop."""
        return self._stop.is_set()

    def close(self) -> None:
        """End the polling thread."""
        self._closed.set()


class WarningForwarder(logging.Handler):
    """Sends kdray's warnings of a worker to the command, which is where a person looks."""

    def __init__(self, listener: RemoteListener, rank: int) -> None:
        super().__init__(logging.WARNING)
        self.listener = listener
        self.rank = rank

    def emit(self, record: logging.LogRecord) -> None:
        """Forward one record."""
        self.listener.event("warning", {"rank": self.rank, "text": record.getMessage(), "time": time.time()})
