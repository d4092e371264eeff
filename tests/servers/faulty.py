"""An HTTP proxy that misbehaves by plan, between a client and a real server.

It forwards every request as it came, so signatures stay valid, except where a rule says otherwise; and it keeps a list
of what it was asked and what it did, so that a test can prove that a fault happened and how often it was tried again.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal["refuse", "answer", "reset", "reset-body", "cut", "corrupt", "hang", "stall"]
_BLOCK = 1 << 16


@dataclass
class Rule:
    """What happens to some of the requests whose method and `path?query` match.

    Args:
        fault: `refuse` answers with `status` and `code` and does not ask the server; `answer` with `status`, `code` as
            the first line's last word, the header `lines` and `body`; `reset` breaks the connection
            before the answer, `reset-body` in the middle of its body; `cut` ends the body early, as if all was well;
            `corrupt` flips one bit in its middle; `hang` sends nothing; `stall` sends half a body and then nothing.
        path: a regular expression, searched; key: the access key that signed the request ("": any).
        skip: matching requests that pass first; times: how many are hit then (None: all).
        then: called when one is hit, before it is answered.
    """

    fault: Fault
    method: str = "GET"
    path: str = ""
    key: str = ""
    skip: int = 0
    times: int | None = 1
    status: int = 500
    code: str = "InternalError"
    lines: tuple[str, ...] = ()
    body: bytes = b""
    then: Callable[[], None] | None = None
    seen: int = 0
    hit: int = 0

    def takes(self, method: str, path: str, key: str) -> bool:
        if method != self.method or not re.search(self.path, path) or self.key not in ("", key):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.hit >= self.times):
            return False
        self.hit += 1
        return True


def refuse(status: int, code: str, **matching: object) -> Rule:
    """The rule that answers `status` with S3's error `code`."""
    return Rule("refuse", status=status, code=code, **matching)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Asked:
    """One request: its method, `path?query`, Range header, the access key that signed it, and the fault it met."""

    method: str
    path: str
    range: str | None
    key: str
    fault: str | None


@dataclass
class Faulty:
    """The proxy in front of `server` ("host:port"); `latency_s` is spent on every request before it is forwarded."""

    server: str
    latency_s: float = 0.0
    rules: list[Rule] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=256))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def reset(self, *rules: Rule, latency_s: float = 0.0) -> None:
        """Forget what was asked; from now on do as `rules` say."""
        with self._lock:
            self.rules, self.latency_s = list(rules), latency_s
            self.asked.clear()
            self.most_in_flight = 0

    def count(self, method: str | None = None, path: str = "") -> int:
        """Requests so far of that method whose `path?query` matches."""
        return sum(method in (None, one.method) and bool(re.search(path, one.path)) for one in list(self.asked))

    def faults(self) -> Counter[str]:
        """How often each fault happened."""
        return Counter(one.fault for one in list(self.asked) if one.fault)

    def serve(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _connection(self, client: socket.socket) -> None:
        host, _, port = self.server.rpartition(":")
        with client, contextlib.suppress(OSError), socket.create_connection((host, int(port))) as upstream:
            for each in (client, upstream):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asking, answering = client.makefile("rb"), upstream.makefile("rb")
            while (head := _head(asking)) is not None:
                method, path = head.first.split(b" ")[:2]
                if head.fields.pop(b"expect", b"") and head.length:
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = b"".join(_body(asking, head))
                rule = self._note(method.decode(), path.decode(), head)
                try:
                    time.sleep(self.latency_s)
                    goes_on = self._answer(client, upstream, answering, head, body, rule)
                finally:
                    with self._lock:
                        self.in_flight -= 1
                if not goes_on:
                    return

    def _note(self, method: str, path: str, head: _Head) -> Rule | None:
        """Write the request down and find its rule: before anything happens to it."""
        span = head.fields.get(b"range")
        signed = re.search(rb"Credential=([^/]+)/", head.fields.get(b"authorization", b""))
        key = signed[1].decode() if signed else ""
        with self._lock:
            rule = next((rule for rule in self.rules if rule.takes(method, path, key)), None)
            named = rule and (rule.code if rule.fault == "refuse" else rule.fault)
            self.asked.append(Asked(method, path, span.decode() if span else None, key, named))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if rule is not None and rule.then is not None:
            rule.then()
        return rule

    def _answer(
        self,
        client: socket.socket,
        upstream: socket.socket,
        answering: object,
        head: _Head,
        body: bytes,
        rule: Rule | None,
    ) -> bool:
        """Answer one request; False when the connection has ended."""
        method = head.first.split(b" ")[0]
        if rule is not None and rule.fault == "reset":
            return _break(client)
        if rule is not None and rule.fault == "hang":
            return self._wait(client)
        if rule is not None and rule.fault in ("refuse", "answer"):
            told, lines = rule.body, rule.lines
            if rule.fault == "refuse":
                told = f"<Error><Code>{rule.code}</Code><Message>no</Message></Error>".encode()
                lines = ("Content-Type: application/xml",)
            lines = (f"HTTP/1.1 {rule.status} {rule.code}", *lines, f"Content-Length: {len(told)}", "", "")
            client.sendall("\r\n".join(lines).encode() + (told if method != b"HEAD" else b""))
            return True
        upstream.sendall(head.text() + body)
        answer = _head(answering)
        while answer is not None and b" 100 " in answer.first:
            answer = _head(answering)
        if answer is None:
            return _break(client)
        bodyless = method == b"HEAD" or answer.first.split(b" ")[1] in (b"204", b"304")
        client.sendall(answer.text())
        half = (answer.length or 0) // 2 if rule is not None and not bodyless else None
        sent = 0
        for block in () if bodyless else _body(answering, answer):
            if half is not None and rule is not None and sent + len(block) > half:
                if rule.fault != "corrupt":
                    client.sendall(block[: half - sent])
                    return self._end(client, rule)
                block = block[: half - sent] + bytes([block[half - sent] ^ 1]) + block[half - sent + 1 :]
                half = None
            client.sendall(block)
            sent += len(block)
        return b"close" not in answer.fields.get(b"connection", b"").lower()

    def _end(self, client: socket.socket, rule: Rule) -> bool:
        if rule.fault == "reset-body":
            time.sleep(0.05)  # a reset overtakes and discards what the client has not read
            return _break(client)
        return self._wait(client) if rule.fault == "stall" else False

    def _wait(self, client: socket.socket) -> bool:
        """Send nothing until the client gives up."""
        client.settimeout(0.2)
        while not self._ended.is_set():
            try:
                if not client.recv(_BLOCK):
                    return False
            except TimeoutError:
                continue
        return False


@contextlib.contextmanager
def faulty(endpoint: str) -> Iterator[Faulty]:
    """A proxy in front of the server at `endpoint` ("http://host:port")."""
    proxy = Faulty(endpoint.partition("://")[2].rstrip("/"))
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()


@dataclass
class _Head:
    """First line and header fields, names in lower case but sent on as they came."""

    first: bytes
    fields: dict[bytes, bytes]
    names: dict[bytes, bytes]

    @property
    def length(self) -> int | None:
        said = self.fields.get(b"content-length")
        return int(said) if said is not None else None

    def text(self) -> bytes:
        lines = [self.first, *(self.names[name] + b": " + value for name, value in self.fields.items())]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def _head(file: object) -> _Head | None:
    first = file.readline()  # type: ignore[attr-defined]
    if not first.strip():
        return None
    fields: dict[bytes, bytes] = {}
    names: dict[bytes, bytes] = {}
    while (line := file.readline().strip()) != b"":  # type: ignore[attr-defined]
        name, _, value = line.partition(b":")
        fields[name.lower()], names[name.lower()] = value.strip(), name
    return _Head(first.strip(), fields, names)


def _body(file: object, head: _Head) -> Iterator[bytes]:
    """The body's blocks as they are on the wire: a chunked one with its chunks' heads."""
    read, line = file.read, file.readline  # type: ignore[attr-defined]
    if head.fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        while True:
            size = line()
            yield size
            rest = int(size.split(b";")[0], 16)
            yield read(rest + 2) if rest else line()
            if not rest:
                return
    left = head.length or 0
    while left:
        block = read(min(_BLOCK, left))
        if not block:
            return
        left -= len(block)
        yield block


def _break(client: socket.socket) -> bool:
    """End the connection with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return False
