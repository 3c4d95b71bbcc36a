"""Objects in a bucket of S3, or of any server that knows If-None-Match: the store of a fleet's lake.

An object is created by `If-None-Match: *`: S3 says which of all writers was first. When the answer to such a request
is lost, the next attempt finds the object there (412), reads it, and where the body is its own, that was success.
"""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from lake.config import S3Config
from lake.s3_client import S3Client, connect
from lake.s3_errors import FAILURES, Failure, Verdict, understand
from lake.s3_patience import PATIENCE, REAL_TIME, Patience, Time, Tries
from lake.s3_place import S3Place
from lake.store import ObjectExists, ObjectInfo, ObjectMissing, StoreError, StoreUnavailable
from settings.declare import MiB

T = TypeVar("T")

_IF_ABSENT = {"IfNoneMatch": "*"}


class S3Store:
    """Store on a bucket. For any number of threads and processes. Connects with its first operation.

    Needs s3:GetObject, s3:PutObject, s3:ListBucket, s3:AbortMultipartUpload; s3:DeleteObject for delete alone.
    part_bytes: larger bodies are uploaded in parts of this size; S3 takes no less than 5 MiB, and 10,000 parts.
    """

    def __init__(
        self,
        place: S3Place,
        config: S3Config,
        *,
        patience: Patience = PATIENCE,
        time: Time = REAL_TIME,
        connect: Callable[[Patience], S3Client] = connect,
        part_bytes: int = 64 * MiB,  # at 1 MiB/s a lost connection costs a minute
    ) -> None:
        self._place = place
        self._encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": config.kms_key} if config.kms_key else {}
        self._patience = patience
        self._time = time
        self._connect = connect
        self._part_bytes = part_bytes
        self._connected: S3Client | None = None
        self._seen_to_create_only_if_absent: set[bool] = set()  # this server; True: of uploads in parts

    def put_if_absent(self, key: str, body: bytes) -> None:
        target = self._target(key)
        in_parts = len(body) > self._part_bytes
        tries = self._tries("write to", key)
        while True:
            try:
                self._write(target, key, body, _IF_ABSENT)
                break
            except FAILURES as error:
                failure = self._understand(error, "write to")
                if failure.verdict is not Verdict.EXISTS:
                    tries.after(failure)
                    continue
                self._seen_to_create_only_if_absent.add(in_parts)
                if tries.in_doubt and self._holds(key, body):
                    return
                raise ObjectExists(f"there is an object {key} in {self._place} already") from error
        if in_parts not in self._seen_to_create_only_if_absent:
            self._check_that_it_cannot_be_created_again(target, key, body)

    def put(self, key: str, body: bytes) -> None:
        self._persist("write to", key, partial(self._write, self._target(key), key, body, {}))

    def get(self, key: str) -> bytes:
        target = self._target(key)

        def read() -> bytes:
            body: bytes = self._client().get_object(**target)["Body"].read()
            return body

        return self._persist("read", key, read)

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """See Store. One request for each 1000 objects, when their turn comes."""
        request: dict[str, Any] = {"Bucket": self._place.bucket, "Prefix": self._place.prefix + prefix}
        if start_after:
            request["StartAfter"] = self._place.prefix + start_after
        last = start_after
        while True:
            page = self._persist("list", prefix, lambda: self._client().list_objects_v2(**request))
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._place.prefix)
                if key <= last:
                    raise StoreError(
                        f"cannot list the lake at {self._place}: this server gives {key} after {last}, not in the "
                        "order of the keys; use a general purpose bucket"
                    )
                last = key
                yield ObjectInfo(key, found["Size"])
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        target = self._target(key)
        with contextlib.suppress(ObjectMissing):
            self._persist("delete from", key, lambda: self._client().delete_object(**target))

    def _holds(self, key: str, body: bytes) -> bool:
        try:
            return self.get(key) == body
        except ObjectMissing as error:
            raise StoreUnavailable(f"{error} any more, a moment after S3 had one") from error

    def _target(self, key: str) -> dict[str, Any]:
        if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
            raise StoreError(f"{key!r} cannot be the key of an object")
        return {"Bucket": self._place.bucket, "Key": self._place.prefix + key}

    def _client(self) -> S3Client:
        # Two threads at once make two, of which one is kept: no harm, and no lock around what asks the host's role.
        client = self._connected
        if client is None:
            client = self._connected = self._connect(self._patience)
        return client

    def _understand(self, error: BaseException, action: str) -> Failure:
        failure = understand(error, action)
        if failure.verdict is Verdict.MENDABLE:
            self._connected = None  # whoever mends it may do so in a file that is read on connecting
        return failure

    def _tries(self, action: str, key: str) -> Tries:
        return Tries(f"cannot {action} the lake at {self._place}/{key}", self._patience, self._time)

    def _persist(self, action: str, key: str, attempt: Callable[[], T]) -> T:
        """The result of an attempt whose repetition does no harm. Raises ObjectMissing, StoreError."""
        tries = self._tries(action, key)
        while True:
            try:
                return attempt()
            except FAILURES as error:
                failure = self._understand(error, action)
                if failure.verdict is Verdict.MISSING:
                    raise ObjectMissing(f"there is no object {key} in {self._place}") from error
                tries.after(failure)

    def _write(self, target: dict[str, Any], key: str, body: bytes, condition: dict[str, str]) -> None:
        if len(body) > self._part_bytes:
            self._write_in_parts(target, key, body, condition)
        else:
            # The checksum as a header: boto3's own would be a trailer, which not every server takes.
            self._client().put_object(
                **target, **condition, **self._encryption, Body=body, ChecksumCRC32=_crc32_base64(body)
            )

    def _write_in_parts(self, target: dict[str, Any], key: str, body: bytes, condition: dict[str, str]) -> None:
        """The condition is S3's to check on completion. After a 409 there every part has to be sent again.

        Source: docs.aws.amazon.com, CompleteMultipartUpload, "If-None-Match"
        """
        client = self._client()
        created = client.create_multipart_upload(**target, **self._encryption, ChecksumAlgorithm="CRC32")
        upload = {**target, "UploadId": created["UploadId"]}
        try:
            parts = []
            for number, first in enumerate(range(0, len(body), self._part_bytes), start=1):
                part = body[first : first + self._part_bytes]
                crc = _crc32_base64(part)
                sent = self._persist(
                    "write to",
                    key,
                    partial(client.upload_part, **upload, PartNumber=number, Body=part, ChecksumCRC32=crc),
                )
                parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumCRC32": crc})
            client.complete_multipart_upload(**upload, **condition, MultipartUpload={"Parts": parts})
        except BaseException:
            # What cannot be aborted now goes by the bucket's rule AbortIncompleteMultipartUpload.
            with contextlib.suppress(*FAILURES):
                client.abort_multipart_upload(**upload)
            raise

    def _check_that_it_cannot_be_created_again(self, target: dict[str, Any], key: str, body: bytes) -> None:
        """Once per process, just after its first object, and with the same body, so that it does no harm.

        A server that ignores If-None-Match would let two enrichers overwrite each other's ranges, silently.
        """
        tries = self._tries("write to", key)
        while True:
            try:
                self._write(target, key, body, _IF_ABSENT)
            except FAILURES as error:
                failure = self._understand(error, "write to")
                if failure.verdict is Verdict.EXISTS:
                    self._seen_to_create_only_if_absent.add(len(body) > self._part_bytes)
                    return
                tries.after(failure)
            else:
                raise StoreError(
                    f"the server of {self._place} ignores If-None-Match: two writers could overwrite each other; use "
                    "one that knows it, as Amazon S3 and versitygw 1.8 do"
                )


def _crc32_base64(body: bytes) -> str:
    """As x-amz-checksum-crc32 has it: big-endian."""
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
