"""Calls in YAML's braces: in `{a: uniform(0.1, 2), b: 3}` YAML ends a's value at the first comma, and we do not."""

from __future__ import annotations

import re

import yaml

Pairs = list[tuple[yaml.Node, yaml.Node]]

_OPENS = re.compile(r"[A-Za-z_]\w*\([^)]*")


def with_calls_whole(pairs: Pairs) -> Pairs:
    """The pairs of a map, with every call that was cut at its commas put together again as text."""
    whole: Pairs = []
    at = 0
    while at < len(pairs):
        key, value = pairs[at]
        end = _end_of_call(pairs, at)
        if end is not None:
            first, last = value.start_mark, pairs[end][0].end_mark
            text = str(first.buffer)[first.pointer : last.pointer]
            value = yaml.ScalarNode("tag:yaml.org,2002:str", " ".join(text.split()), first, last)
            at = end
        whole.append((key, value))
        at += 1
    return whole


def _end_of_call(pairs: Pairs, at: int) -> int | None:
    """Which key, without a value of its own, ends the call that begins as the value at `at`."""
    value = pairs[at][1]
    if not isinstance(value, yaml.ScalarNode) or value.style is not None or not _OPENS.fullmatch(str(value.value)):
        return None
    for end in range(at + 1, len(pairs)):
        key, nothing = pairs[end]
        if not isinstance(key, yaml.ScalarNode) or nothing.start_mark.index != nothing.end_mark.index:
            return None
        if str(key.value).endswith(")"):
            return end
    return None
