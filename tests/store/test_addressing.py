"""How buckets are addressed, and what of an endpoint is told."""

from __future__ import annotations

import pytest

from kdray.errors import StoreError
from kdray.store import Store
from kdray.store.explain import endpoint
from kdray.store.s3_clients import clients, environment
from tests.conftest import S3


@pytest.mark.parametrize(("style", "used"), [(None, "path"), ("virtual", "virtual"), ("PATH", "path")])
def test_by_path_unless_told_otherwise(s3: S3, monkeypatch: pytest.MonkeyPatch, style: str | None, used: str) -> None:
    monkeypatch.delenv("AWS_S3_ADDRESSING_STYLE", raising=False)
    if style is not None:
        monkeypatch.setenv("AWS_S3_ADDRESSING_STYLE", style)
    assert clients(environment()).work.meta.config.s3["addressing_style"] == used


def test_another_style_is_refused(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_S3_ADDRESSING_STYLE", "virtul")
    with pytest.raises(StoreError, match="no addressing style") as caught:
        Store(s3.uri("addressing")).list()
    assert caught.value.where == "AWS_S3_ADDRESSING_STYLE"


@pytest.mark.parametrize("password", ["hunter2", "p@hunter2", "p/@hunter2"])
def test_a_name_and_password_in_an_endpoint_are_never_told(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://user:{password}@host:9000")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    assert endpoint() == "https://host:9000"
