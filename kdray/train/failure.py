"""What ended an attempt on Ray workers, said in one line.

Ray wraps what happened several times over, and one lost worker makes all others fail in their own way.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions

from kdray.errors import KdrayError


class WorkerFailure(Exception):
    """An exception that nobody planned for, raised in a worker.

    It travels as text: the command may lack the module that defines it, and not every exception can be pickled.
    `follows` tells that it only follows from another worker's end: a collective operation lost its peer.
    """

    def __init__(self, text: str, rank: int, follows: bool, trace: str) -> None:
        super().__init__(text, rank, follows, trace)
        self.text, self.rank, self.follows, self.trace = text, rank, follows, trace

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of(cls, error: BaseException, rank: int) -> WorkerFailure:
        """Describe `error` inside the worker, where its type is known."""
        import torch.distributed as dist

        text = first_line(error)
        notes = getattr(error, "__notes__", [])  # the loop notes the step
        lost = isinstance(error, dist.DistError) or any(name in text.lower() for name in ("gloo", "nccl"))
        text = " ".join([text, *(f"({note})" for note in notes)])
        return cls(text, rank, follows=lost, trace="".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Reason:
    """Why an attempt ended: `raised` is what kdray raised on purpose, if that was it. `by_code` says that code raised
    it, rather than that something was lost: the same text again means that it will always come again.
    """

    text: str
    raised: KdrayError | None = None
    by_code: bool = False
    trace: str = field(default="", compare=False)


def reason_of(error: BaseException) -> Reason:
    """Find the reason in what `fit()` raised. A dead worker explains the lost connections of the others."""
    failures: dict[int, Any] = getattr(error, "worker_failures", None) or {}
    reasons = [(rank, innermost(failure)) for rank, failure in sorted((failures or {0: error}).items())]
    rank, reason = min(reasons, key=lambda pair: _distance(pair[1]))
    if isinstance(reason, KdrayError):
        return Reason(str(reason), raised=reason)
    if isinstance(reason, WorkerFailure):
        return Reason(f"{reason} in worker {reason.rank}", by_code=not reason.follows, trace=reason.trace)
    if isinstance(reason, ray.exceptions.RayActorError) and failures:
        return Reason(f"worker {rank} died: {_manner(reason)}")
    return Reason(first_line(reason))


def innermost(error: BaseException) -> BaseException:
    """The exception that Ray's wrappers carry."""
    seen: set[int] = set()
    while id(error) not in seen and not isinstance(error, (KdrayError, WorkerFailure)):
        seen.add(id(error))
        links = ("controller_failure", "health_check_failure", "cause", "__cause__")
        inner = next((x for x in (getattr(error, link, None) for link in links) if isinstance(x, BaseException)), None)
        if inner is None:
            break
        error = inner
    return error


def first_line(error: BaseException) -> str:
    """`Type: first line of its text`."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _distance(reason: BaseException) -> int:
    """How far a worker's failure is from the cause of all of them."""
    if isinstance(reason, KdrayError):
        return 0
    if isinstance(reason, ray.exceptions.RayActorError):
        return 1
    return 3 if isinstance(reason, WorkerFailure) and reason.follows else 2


def _manner(error: BaseException) -> str:
    """How an actor died, in a few words of Ray's long text."""
    text = str(error)
    if "node has died" in text or "node is dead" in text:
        return "its node is gone"
    if "low on memory" in text:
        return "its node ran low on memory"
    return "its process was killed, crashed or ran out of memory"
