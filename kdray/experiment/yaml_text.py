"""YAML text in and out, with PyYAML's number and boolean surprises taken away.

Differences from `yaml.safe_load`: 1e-3 is a number; only true and false are booleans (yes, no, on, off are text); 12:30
and dates are text; 010, 0x1F and 0b1 are errors; a key given twice is an error; keys are text; tags beyond plain data
are errors; a call in braces, {a: choice(2, 4)}, is one text. Every value can say on which line it stands.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from kdray.errors import ConfigError
from kdray.experiment.freeform import MAX_DEPTH, Path
from kdray.experiment.yaml_calls import with_calls_whole

MAX_VALUES = 100_000  # aliases can blow a small file up to any size; no experiment comes near this
_TAG = "tag:yaml.org,2002:"
_TRAP = "tag:kdray:number-trap"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)$")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_RESOLVERS = (  # (tag, pattern, first characters), first match wins
    (_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    (_TAG + "int", _INT, list("-+0123456789")),
    (_TRAP, re.compile(r"[-+]?0(?:[0-9_]+|[xX][0-9a-fA-F_]+|[oO][0-7_]+|[bB][01_]+)$"), list("-+0")),
    (_TAG + "float", _FLOAT, list("-+.0123456789")),
    (_TAG + "merge", re.compile(r"<<$"), ["<"]),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Knows the same resolvers, so text that would be read back as something else is quoted."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # PyYAML folds the rarer line ends (NEL, LS, PS) of single-quoted text into spaces; double quotes escape them.
    style = '"' if any(end in value for end in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(_TAG + "str", value, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, lambda dumper, value: dumper.represent_scalar(_TAG + "float", repr(value)))


@dataclass(frozen=True)
class Document:
    """One parsed YAML text: its plain `value`, and where in `source` each key stands."""

    source: str
    value: Any
    root: yaml.Node | None = field(repr=False)
    has_lines: bool = True

    def holds(self, path: Path) -> bool:
        """Whether this text gives the value at `path`."""
        return self.root is not None and _find(self.root, path) is not None

    def place(self, path: Path) -> str:
        """Return "source:line" of the deepest part of `path` that stands in this text."""
        if not self.has_lines or self.root is None:
            return self.source
        for depth in range(len(path), -1, -1):
            node = _find(self.root, path[:depth])
            if node is not None:
                return f"{self.source}:{node.start_mark.line + 1}"
        return self.source


def parse(text: str, source: str, *, has_lines: bool = True, above: Path = ()) -> Document:
    """Parse one YAML document of plain data that stands at the key path `above`. Raises ConfigError.

    `source` names the text in errors; `has_lines` says whether line numbers in it mean anything to a reader.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        value = None if root is None else _Builder(source, has_lines).build(root, above)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark and has_lines else source
        raise ConfigError(f"not YAML: {error.problem or error.context}", where=where, fix=_syntax_fix(error)) from None
    except yaml.reader.ReaderError as error:
        problem = f"not YAML: the character {chr(error.character)!a} cannot stand in it"
        raise ConfigError(problem, where=source, fix="Save the file as plain UTF-8 text") from None
    except RecursionError:
        raise ConfigError("nested too deeply", where=source, fix="An experiment needs a few levels only") from None
    return Document(source, value, root, has_lines)


def dump(value: Any) -> str:
    """Return `value` (plain data, text keys) as YAML that `parse` reads back to an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def flow(value: Any) -> str:
    """`dump` on one line, with braces: what can stand behind a key."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=math.inf
    ).rstrip("\n")


class _Builder:
    """Turns composed nodes into plain data, knowing at each value its key path and line."""

    def __init__(self, source: str, has_lines: bool) -> None:
        self.source, self.has_lines = source, has_lines
        self.values = 0
        self.open: set[int] = set()  # nodes being built: meeting one again is a value that contains itself

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.values += 1
        if self.values > MAX_VALUES:
            self.fail(node, path, f"more than {MAX_VALUES} values", "Use fewer aliases")
        if len(path) > MAX_DEPTH:
            self.fail(node, path[:3], "nested too deeply", "An experiment needs a few levels only")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if id(node) in self.open:
            self.fail(node, path, "an alias makes the value contain itself", "Write the value out")
        wanted = "seq" if isinstance(node, yaml.SequenceNode) else "map"
        if node.tag != _TAG + wanted:
            self.fail(node, path, f"the tag {_tag_name(node)} is not known", "Remove it: plain lists and maps only")
        self.open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            value: Any = [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        else:
            value = self.mapping(node, path)
        self.open.discard(id(node))
        return value

    def mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in with_calls_whole(node.value):
            if key_node.tag == _TAG + "merge":
                for source in _merge_sources(value_node):
                    if not isinstance(source, yaml.MappingNode):
                        self.fail(key_node, path, "<< merges maps only", "Point it to an anchored map")
                    merged = {**self.build(source, path), **merged}
                continue
            key = self.key(key_node, path)
            line = key_node.start_mark.line + 1
            if key in lines:
                at = f"on lines {lines[key]} and {line}" if self.has_lines else "twice"
                self.fail(key_node, (*path, key), f"the key {key!r} is given {at}", "Keep one of them")
            lines[key] = line
            own[key] = self.build(value_node, (*path, key))
        return {**merged, **own}

    def key(self, node: yaml.Node, path: Path) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node, path, "a key must be text, not a list or map", "Write key: value")
        if node.tag != _TAG + "str":
            self.fail(node, path, f"the key {node.value or 'null'} is not text", f'Write "{node.value}" in quotes')
        return self.text(node, path)

    def text(self, node: yaml.ScalarNode, path: Path) -> str:
        value = str(node.value)
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            self.fail(node, path, "half a surrogate pair is not text", "Write the character itself")
        return value

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text, tag = str(node.value), node.tag
        if tag == _TAG + "str":
            return self.text(node, path)
        if tag == _TAG + "null":
            return None
        if tag == _TAG + "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if tag == _TAG + "int" and _INT.match(text) and len(text) < 100:
            return int(text)
        if tag == _TAG + "float" and (_FLOAT.match(text) or _INT.match(text)):
            value = _float(text)
            if not math.isfinite(value):
                self.fail(node, path, f"{text} is not a finite number", "Give a finite number")
            return value
        if tag == _TRAP:
            number = _trap_value(text)
            problem = f"{text} is ambiguous: YAML readers differ on what such a number means"
            self.fail(node, path, problem, f'Write {number}, or "{text}" for text')
        self.fail(node, path, f"{text!r} cannot be read as {_tag_name(node)}", "Remove the tag or correct the value")

    def fail(self, node: yaml.Node, path: Path, problem: str, fix: str) -> NoReturn:
        place = f"{self.source}:{node.start_mark.line + 1}" if self.has_lines else self.source
        raise ConfigError(problem, where=f"{place}: {dotted(path)}" if path else place, fix=fix)


def reads_as_number(text: str, *, whole: bool = False) -> bool:
    """Whether unquoted `text` is read as a finite number (a whole one)."""
    return bool(_INT.match(text)) or (not whole and bool(_FLOAT.match(text)) and math.isfinite(_float(text)))


def dotted(path: Path) -> str:
    """Return the key path as users write it: train.schedule.milestones."""
    return ".".join(str(part) for part in path)


def _merge_sources(node: yaml.Node) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]


def _find(node: yaml.Node, path: Path) -> yaml.Node | None:
    """Return the node whose line is that of `path`: the key's in a map, the item's in a list."""
    place = node
    for part in path:
        found = _child(node, part)
        if found is None:
            return None
        place, node = found
    return place


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode):
        fits = isinstance(part, int) and part < len(node.value)
        return (node.value[part], node.value[part]) if fits else None
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        if key.tag != _TAG + "merge" and key.value == part:
            return key, value
    sources = [s for key, value in node.value if key.tag == _TAG + "merge" for s in _merge_sources(value)]
    return next((found for s in sources if (found := _child(s, part)) is not None), None)


def _float(text: str) -> float:
    # YAML writes .inf and .nan where Python reads inf and nan.
    return float(text.lower().replace(".i", "i").replace(".n", "n"))


def _trap_value(text: str) -> int:
    sign, digits = (-1 if text[0] == "-" else 1), text.lstrip("+-").replace("_", "")
    base = {"x": 16, "o": 8, "b": 2}.get(digits[1:2].lower())
    return sign * (int(digits[2:] or "0", base) if base else int(digits))


def _tag_name(node: yaml.Node) -> str:
    return str(node.tag).replace(_TAG, "!!")


def _syntax_fix(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "\\t" in problem:
        return "Indent with spaces, not tabs"
    if "cannot start any token" in problem:
        return "Put the value in quotes"
    if "expected a single document" in str(error.context):
        return "Keep one document in the file: remove the second ---"
    if "mapping values are not allowed" in problem:
        return 'Indent the lines of one map equally, and quote text that holds ": "'
    return "Correct the line or the one above it"
