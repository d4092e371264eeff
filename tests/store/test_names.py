"""URIs and names below a root."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdray.errors import StoreError
from kdray.store import Store
from tests.store.telling import one_line


class TestNames:
    def test_a_relative_root_is_absolute_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        store = Store("runs/")
        monkeypatch.chdir("/")
        assert store.uri == str(tmp_path / "runs")
        assert store.path_uri("a/b") == str(tmp_path / "runs" / "a" / "b")

    @pytest.mark.parametrize(
        ("uri", "plain"),
        [
            ("s3://b/p/", "s3://b/p"),
            ("S3://b", "s3://b"),
            ("s3://b//p//q", "s3://b/p/q"),
            ("s3://b/a?b#c%20", "s3://b/a?b#c%20"),
        ],
    )
    def test_object_keys_are_literal(self, uri: str, plain: str) -> None:
        assert Store(uri).uri == plain

    @pytest.mark.parametrize(
        "uri",
        [
            "s3://AKIA:hunter2@b/x",
            "S3://AKIA:hunter2@b",
            "s3://AKIA:/hunter2/+@b/x",  # a secret may have slashes
            "s3://AKIA:hunter2",
            "gs://someone:hunter2@b/x",
            "https://someone:hunter2@host/x",
            "https://someone:/hunter2@host/x",
        ],
    )
    def test_keys_in_a_uri_are_refused_and_not_told(self, uri: str) -> None:
        with pytest.raises(StoreError) as error:
            Store(uri)
        assert "hunter2" not in str(error.value) and "AKIA" not in str(error.value)
        one_line(error, "keys stand in the URI" if "/hunter2@" not in uri else "'https' is not known")

    def test_what_only_looks_like_keys(self) -> None:
        for uri in ("s3://b/someone@host:80/x", "gs://b/a:b"):
            assert Store(uri).uri == uri
        assert Store("file:///a@b").uri == "/a@b"

    @pytest.mark.parametrize(
        ("uri", "words"),
        [
            ("", ["no path"]),
            ("s4://b/x", ["'s4'", "did you mean 's3'"]),
            ("https://host/x", ["'https'", "Use a local path"]),
            ("s3://", ["no bucket"]),
            ("s3:///x", ["no bucket", "s3://bucket/prefix"]),
            ("s3://b/../x", ["'..'"]),
            ("file://host/x", ["file:///"]),
        ],
    )
    def test_a_wrong_uri_is_refused(self, uri: str, words: list[str]) -> None:
        with pytest.raises(StoreError) as error:
            Store(uri)
        one_line(error, *words)

    @pytest.mark.parametrize("rel", ["../x", "a/../../x", "/etc/passwd"])
    def test_no_name_leads_out_of_the_store(self, tmp_path: Path, rel: str) -> None:
        with pytest.raises(StoreError, match="leads out of the store"):
            Store(tmp_path).write_bytes(rel, b"")

    def test_json_that_is_none_is_told(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        store.write_text("x.json", '{"a": ')
        with pytest.raises(StoreError, match=r"x\.json: is not JSON"):
            store.read_json("x.json")
        with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
            store.write_json("y.json", {"loss": float("nan")})
        assert store.list() == ["x.json"]
