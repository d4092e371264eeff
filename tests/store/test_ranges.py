"""Ranges of objects: what the answer says is compared with what was asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdray.errors import StoreError
from kdray.store import Store, read_range
from kdray.store.part import Part
from tests.conftest import S3
from tests.servers.faulty import Faulty, Rule
from tests.store.telling import one_line

CONTENT = bytes(range(200))
ASKED = [(0, 50), (150, 50), (150, 80), (60, 1), (-30, 30), (-300, 300)]


@pytest.fixture
def uri(real_s3: S3, tmp_path: Path) -> str:
    Store(real_s3.uri(f"ranges/{tmp_path.name}")).write_bytes("x", CONTENT)
    return real_s3.uri(f"ranges/{tmp_path.name}/x")


def piece(start: int, length: int) -> bytes:
    first = start if start >= 0 else max(0, len(CONTENT) + start)
    return CONTENT[first : first + length]


def says(content_range: str | None, body: bytes, status: int = 206) -> Rule:
    lines = ('ETag: "1"', *([f"Content-Range: {content_range}"] if content_range else []))
    return Rule("answer", status=status, code="OK", lines=lines, body=body, times=None)


@pytest.mark.parametrize(("start", "length"), ASKED)
def test_as_the_server_gives_it(uri: str, start: int, length: int) -> None:
    data, size, version = read_range(uri, start, length)
    assert (data, size) == (piece(start, length), 200) and version


@pytest.mark.parametrize(("start", "length"), ASKED)
def test_a_server_that_knows_no_ranges_sends_all(proxy: Faulty, uri: str, start: int, length: int) -> None:
    proxy.reset(says(None, CONTENT, status=200))
    assert read_range(uri, start, length) == Part(piece(start, length), 200, '"1"')
    assert proxy.count() == 1


def test_a_size_that_is_not_said_is_asked_for(proxy: Faulty, uri: str) -> None:
    proxy.reset(says("bytes 10-29/*", CONTENT[10:30]))
    assert read_range(uri, 10, 20)[:2] == (CONTENT[10:30], 200)
    assert (proxy.count("GET"), proxy.count("HEAD")) == (1, 1)


@pytest.mark.parametrize(
    ("start", "said", "body"),
    [
        (10, "bytes 0-19/200", CONTENT[:20]),  # another range
        (10, "bytes 10-24/200", CONTENT[10:25]),  # less
        (10, "bytes 10-29/*", b"short"),  # not what it says itself
        (190, "bytes 190-199/400", CONTENT[190:]),
        (-20, "bytes 0-19/200", CONTENT[:20]),
        (10, "bytes */200", CONTENT[10:30]),
        (10, "items 1-2/3", CONTENT[10:30]),
        (10, None, CONTENT[10:30]),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)
def test_an_answer_to_another_question_is_refused(
    proxy: Faulty, uri: str, start: int, said: str | None, body: bytes
) -> None:
    proxy.reset(says(said, body))
    with pytest.raises(StoreError) as error:
        read_range(uri, start, 20)
    asked = f"bytes={start}-{start + 19}" if start >= 0 else f"bytes={start}"
    one_line(error, uri, f"asked for {asked}, the answer is {said or 'no Content-Range'}", "proxy")
    assert proxy.count("GET") == 1
