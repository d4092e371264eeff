"""Sharing between the trials of a sweep on Ray: a node holds one copy, which its processes read without copying it.

What a trial lacks is made by a Ray task on its node, and the sweep's holder, not a trial, owns the result. So it
outlives trials, Ray makes it again where its maker or its node dies, and nobody makes it twice. Whatever goes wrong,
a trial makes its own, as without sharing.
"""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdray.data.shared import LIMIT_BYTES, K, LocalSharing

log = logging.getLogger(__name__)

STORE_SHARE = 0.4  # of a node's object store: the rest is for the pieces of streams and for Ray's own
ANSWER_TIMEOUT_S = 60.0  # for the holder, which may still be starting
MAKE_TIMEOUT_S = 600.0
LEAVE_TIMEOUT_S = 5.0
_RETRIES = 3  # where the process that makes something dies


@dataclass(frozen=True)
class TooLarge:
    """Stands in the place of what does not fit."""

    nbytes: int


@dataclass
class _Item:
    ref: Any
    nbytes: float
    users: set[str] = field(default_factory=set)


class Holder:
    """Owns what is shared in a sweep, within the room that the asking nodes have for it. Every call returns at once."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, _Item] = OrderedDict()  # what was asked for last stands last

    def ask(self, key: str, user: str, room: float, expected: float) -> list[Any] | str:
        """The reference of `key`, in a list; "make" where there is none, "full" where it does not fit into `room`."""
        item = self._items.get(key)
        if not self._fits(key, expected if item is None else item.nbytes, room):
            return "full"
        return "make" if item is None else self._lent(key, user)

    def begin(self, key: str, user: str, room: float, expected: float, node: str, make: bytes) -> list[Any]:
        """Have `key` made on `node`, unless another began; its reference, in a list."""
        if key not in self._items:
            here = NodeAffinitySchedulingStrategy(node, soft=True)
            task = ray.remote(_make).options(num_cpus=0, max_retries=_RETRIES, scheduling_strategy=here)
            itself = ray.get_runtime_context().current_actor
            self._items[key] = _Item(task.remote(itself, key, room, make), expected)
        return self._lent(key, user)

    def claim(self, key: str, nbytes: int, room: float) -> bool:
        """Whether `key`, which turned out to be of `nbytes`, may enter the object store."""
        fits = self._fits(key, nbytes, room)
        if key in self._items:
            self._items[key].nbytes = nbytes if fits else 0
        return fits

    def forget(self, key: str, ref: str) -> None:
        """Have `key` made again for the next who asks: the reference of hexadecimal number `ref` gives nothing."""
        if key in self._items and self._items[key].ref.hex() == ref:
            del self._items[key]

    def leave(self, user: str) -> None:
        """`user` needs nothing more."""
        for item in self._items.values():
            item.users.discard(user)

    def held(self) -> dict[str, float]:
        """Bytes of what is held or being made, by key."""
        return {key: item.nbytes for key, item in self._items.items()}

    def _lent(self, key: str, user: str) -> list[Any]:
        self._items.move_to_end(key)
        self._items[key].users.add(user)
        return [self._items[key].ref]

    def _fits(self, key: str, nbytes: float, room: float) -> bool:
        """Whether it fits beside the others, of which those that nobody uses are let go of where that helps."""
        unused = [other for other, item in self._items.items() if other != key and not item.users]
        total = nbytes + sum(item.nbytes for other, item in self._items.items() if other != key)
        if total - sum(self._items[other].nbytes for other in unused) > room:
            return False
        for other in unused:
            if total <= room:
                break
            total -= self._items.pop(other).nbytes
        return True


def _make(holder: Any, key: str, room: float, make: bytes) -> Any:
    """The task: what `make` gives, in the object store."""
    made = cloudpickle.loads(make)()
    return made if ray.get(holder.claim.remote(key, made.nbytes, room)) else TooLarge(made.nbytes)


class RaySharing:
    """A `Sharing` for trials that are processes of one Ray cluster; see `start_sharing`."""

    def __init__(self, holder: Any, sweep: str, limit_bytes: int) -> None:
        self._holder, self._sweep, self._limit_bytes = holder, sweep, limit_bytes
        self._user = uuid.uuid4().hex
        self._asked = self._broken = False

    def __reduce__(self) -> tuple[Any, ...]:
        return RaySharing, (self._holder, self._sweep, self._limit_bytes)

    def keep(self, key: str, make: Callable[[], K], expected: Callable[[], float]) -> K:
        """See `Sharing`. What is not shared is remembered in this process, for the next trial that it runs."""
        if not self._broken and ray.is_initialized():
            try:
                ref = self._reference(key, make, expected())
            except RayError as error:
                self._broken = True
                log.warning("data is not shared between trials from now on: no answer (%s)", _reason(error))
            else:
                made = self._got(key, ref) if ref is not None else None
                if made is not None:
                    return made
        return _in_process(self._sweep, self._limit_bytes).keep(key, make, expected)

    def leave(self) -> None:
        """See `Sharing`."""
        if self._asked and not self._broken and ray.is_initialized():
            try:
                ray.get(self._holder.leave.remote(self._user), timeout=LEAVE_TIMEOUT_S)
            except RayError as error:
                log.info("what this trial used counts as used until the sweep ends (%s)", type(error).__name__)

    def close(self) -> None:
        """See `Sharing`. Arrays that trials still use stay as they are."""
        _IN_PROCESS.pop(self._sweep, None)
        if ray.is_initialized():
            ray.kill(self._holder)

    def _reference(self, key: str, make: Callable[[], Any], expected: float) -> Any:
        """The reference of `key`, which may still be in the making; None where it does not fit."""
        self._asked = True
        asked = self._holder.ask.remote(key, self._user, self._room, expected)
        answer = ray.get(asked, timeout=ANSWER_TIMEOUT_S)
        if answer == "full":
            said = "data of about %.0f MiB is not shared between trials: more than %d %% of Ray's object store"
            log.info(said, expected / 2**20, 100 * STORE_SHARE)
            return None
        if answer == "make":
            here = ray.get_runtime_context().get_node_id()
            # Pickled here: the holder need not import what makes it.
            how = cloudpickle.dumps(make)
            begun = self._holder.begin.remote(key, self._user, self._room, expected, here, how)
            answer = ray.get(begun, timeout=ANSWER_TIMEOUT_S)
        return answer[0]

    def _got(self, key: str, ref: Any) -> Any:
        """What `ref` refers to, as soon as it is made; None where that fails."""
        try:
            made = ray.get(ref, timeout=MAKE_TIMEOUT_S)
        except RayError as error:
            log.warning("data is not shared between trials: %s", _reason(error))
            self._holder.forget.remote(key, ref.hex())
            return None
        if isinstance(made, TooLarge):
            said = "data of %.0f MiB is not shared between trials: more than %d %% of Ray's object store"
            log.info(said, made.nbytes / 2**20, 100 * STORE_SHARE)
            return None
        return made

    @cached_property
    def _room(self) -> float:
        """Bytes that this node's object store has for what is shared."""
        here = ray.get_runtime_context().get_node_id()
        stores = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["NodeID"] == here]
        return STORE_SHARE * sum(stores)


def _reason(error: RayError) -> str:
    """One line."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def start_sharing(limit_bytes: int = LIMIT_BYTES) -> RaySharing:
    """Sharing for the sweep of this driver, which its trials `install`; the holder lives on the driver's node.

    `limit_bytes` is what a process remembers, for its next trial, of what could not be shared.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    holder = ray.remote(Holder).options(num_cpus=0, scheduling_strategy=here).remote()
    return RaySharing(holder, uuid.uuid4().hex, limit_bytes)


_IN_PROCESS: dict[str, LocalSharing] = {}


def _in_process(sweep: str, limit_bytes: int) -> LocalSharing:
    """What this process remembers of `sweep`; that of another is forgotten."""
    for other in [other for other in _IN_PROCESS if other != sweep]:
        _IN_PROCESS.pop(other).close()
    return _IN_PROCESS.setdefault(sweep, LocalSharing(limit_bytes))
