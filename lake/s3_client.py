"""The calls of S3 that a lake makes, and how boto3 is set up for them."""

from __future__ import annotations

from typing import Any, Protocol, cast

import boto3.session
from botocore.config import Config

from lake.s3_patience import Patience

# Threads that use one store at a time: more of them would throw connections away, and say so.
_CONNECTIONS = 64


class S3Client(Protocol):
    """A boto3 client, as far as a lake needs it. Parameters and answers: the S3 API's own names."""

    def put_object(self, **parameters: Any) -> dict[str, Any]: ...

    def get_object(self, **parameters: Any) -> dict[str, Any]: ...

    def list_objects_v2(self, **parameters: Any) -> dict[str, Any]: ...

    def delete_object(self, **parameters: Any) -> dict[str, Any]: ...

    def create_multipart_upload(self, **parameters: Any) -> dict[str, Any]: ...

    def upload_part(self, **parameters: Any) -> dict[str, Any]: ...

    def complete_multipart_upload(self, **parameters: Any) -> dict[str, Any]: ...

    def abort_multipart_upload(self, **parameters: Any) -> dict[str, Any]: ...


def client_config(patience: Patience) -> Config:
    """boto3 tries once: the store retries by itself, for it has to know whether an attempt before may have happened."""
    return Config(
        connect_timeout=patience.connect_seconds,
        read_timeout=patience.read_seconds,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
    )


def connect(patience: Patience) -> S3Client:
    """A client with endpoint, region and credentials as boto3 finds them now: environment, files, container, instance.

    Raises botocore's errors, and ValueError where the endpoint is no URL.
    """
    return cast(S3Client, boto3.session.Session().client("s3", config=client_config(patience)))
