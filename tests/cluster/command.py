"""Commands and Ray heads as processes of their own, each in a session of its own, so that all it started is known."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kdray

REPOSITORY = Path(kdray.__file__).parents[1]
BIN = Path(sys.executable).parent
PATIENCE_S = 600.0  # a test that works takes a twentieth of it; a machine may be busy


class Process:
    """A process that leads a session of its own; its output goes to a file."""

    def __init__(self, arguments: Sequence[str | Path], cwd: Path, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.arguments = [str(argument) for argument in arguments]
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                self.arguments,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def descendants(self) -> list[int]:
        """Every process of this one's session that still runs, itself left out."""
        return [pid for pid in session_members(self.pid) if pid != self.pid]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Return the exit code; the test fails when there is none in time."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.arguments} still runs after {timeout_s} s:\n{self.output}") from None

    def wait_for(self, condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until `condition()`; the test fails when this process ends first, or in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            code = self.process.poll()
            assert code is None, f"ended with {code} before {what}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {what} in {timeout_s} s:\n{self.output}"
            time.sleep(0.05)

    def end(self) -> None:
        """Kill what is left of the session."""
        for pid in {self.pid, *session_members(self.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def session_members(leader: int) -> list[int]:
    """Process ids of the session that `leader` leads; zombies do not count."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    found = []
    for pid, state in (line.split() for line in table.splitlines()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(pid)) == leader and not state.startswith("Z"):
                found.append(int(pid))
    return found


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def gone(pid: int, timeout_s: float = 60.0) -> bool:
    """Wait until a process is gone; False when it stays."""
    deadline = time.monotonic() + timeout_s
    while is_running(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    """Give `process`, and leave nothing of it behind."""
    try:
        yield process
    finally:
        process.end()


@dataclass(frozen=True)
class Head:
    """A Ray cluster of one node with token authentication, as an administrator would start it."""

    process: Process
    address: str
    dashboard: str
    folder: Path

    @property
    def joined(self) -> dict[str, str]:
        """What a command that is to join it has in its environment."""
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token"}


@contextlib.contextmanager
def ray_head(env: Mapping[str, str], folder: Path, cpus: int, object_store_bytes: int) -> Iterator[Head]:
    """A head that runs until the block ends; all it writes lies in `folder`, whose path must be short."""
    gcs, dashboard, *rest = free_ports(6)
    env = dict(env) | {"RAY_AUTH_MODE": "token"}
    token = Process([BIN / "ray", "get-auth-token", "--generate"], folder, env, folder / "token.log")
    assert token.wait() == 0, token.output
    flags = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": rest[0],
        "dashboard-agent-listen-port": rest[1],
        "dashboard-agent-grpc-port": rest[2],
        "metrics-export-port": rest[3],
        "num-cpus": cpus,
        "object-store-memory": object_store_bytes,
        "temp-dir": folder / "r",
    }
    options = [f"--{name}={value}" for name, value in flags.items()]
    command = [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats", *options]
    with running(Process(command, folder, env, folder / "head.log")) as process:
        process.wait_for(lambda: "Ray runtime started" in process.output, "start of the head")
        yield Head(process, f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", folder / "r")
