"""The S3 store against a real server, with a proxy between them that loses, delays, refuses and damages.

What holds for any store is in test_store_contract.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from services import faulty_proxy as proxies
from services.faulty_proxy import Exchange, Fault, FaultyProxy, Request, always, error, first
from services.versitygw import QUICK, ROOT, Keys, Versitygw

from lake.config import S3Config
from lake.s3_patience import Patience, Time
from lake.s3_place import S3Place
from lake.s3_store import S3Store
from lake.store import ObjectExists, ObjectMissing, StoreError, StoreUnavailable
from settings.declare import MiB

pytestmark = pytest.mark.slow

KEY = "_ranges/log/0/00000000000000000007.range.json"
BODY = bytes(range(256)) * 40


@dataclass
class Waits:
    """Time that passes only while somebody waits. Every wait is the longest that it may be."""

    now_seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    def time(self) -> Time:
        return Time(lambda: self.now_seconds, self._sleep, lambda _, most: most)

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_seconds += seconds


@pytest.fixture
def proxy(gateway: Versitygw) -> Iterator[FaultyProxy]:
    with FaultyProxy(gateway.port) as running:
        yield running


@pytest.fixture
def store(gateway: Versitygw, proxy: FaultyProxy, bucket: str) -> S3Store:
    """A store behind the proxy, which has already seen that the server creates only if absent."""
    made = S3Store(
        S3Place(bucket, "team/lake/"),
        S3Config(),
        patience=QUICK,
        time=Waits().time(),
        connect=lambda patience: gateway.client(patience=patience, url=proxy.url),
        part_bytes=5 * MiB,
    )
    made.put_if_absent("_lake.json", b"{}")
    proxy.requests.clear()
    return made


def stored(gateway: Versitygw, bucket: str, key: str) -> bytes:
    """The oracle: the file that the server keeps."""
    return (gateway.directory / bucket / "team/lake" / key).read_bytes()


PASSING = {
    "the request is lost": proxies.request_lost,
    "the answer is lost": proxies.answer_lost,
    "no answer in time": proxies.slow(2 * QUICK.read_seconds),
    "slow down": error(503, "SlowDown"),
    "an error of S3": error(500, "InternalError"),
    "an error of S3, though it happened": error(500, "InternalError", happened=True),
    "an error without a word": proxies.page(502, b""),
    "too many requests": proxies.page(429, b"<html>"),
    "a conflict with another writer": error(409, "ConditionalRequestConflict"),
    "the body was damaged": error(400, "BadDigest"),
    "the body came too slowly": error(400, "RequestTimeout"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_create_that_fails_in_passing_succeeds(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str, store: S3Store, fault: Fault
) -> None:
    proxy.fault = first(fault, method="PUT")
    store.put_if_absent(KEY, BODY)
    assert stored(gateway, bucket, KEY) == BODY
    assert len([request for request in proxy.requests if request.method == "PUT"]) == 2


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_hint_that_fails_in_passing_is_written(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str, store: S3Store, fault: Fault
) -> None:
    proxy.fault = first(fault, fault)
    store.put("_head", b"7")
    assert stored(gateway, bucket, "_head") == b"7"


READING = PASSING | {
    "the answer is cut": proxies.answer_cut,
    "the answer is damaged": proxies.answer_damaged,
    "the answer is from something else": proxies.page(503, b"<html><body>Down for maintenance"),
}


@pytest.mark.parametrize("fault", READING.values(), ids=READING.keys())
def test_reading_goes_on_until_every_byte_is_right(proxy: FaultyProxy, store: S3Store, fault: Fault) -> None:
    store.put_if_absent(KEY, BODY)
    proxy.fault = first(fault, fault, method="GET")
    assert store.get(KEY) == BODY
    proxy.fault = first(fault, method="DELETE")
    store.delete(KEY)
    with pytest.raises(ObjectMissing):
        store.get(KEY)


def test_listing_reads_page_after_page_whatever_fails(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str, store: S3Store
) -> None:
    directory = gateway.directory / bucket / "team/lake/flows"
    directory.mkdir()
    names = [f"{number:04d}" for number in range(2_100)]
    for name in names:
        (directory / name).write_bytes(b"x")
    faults = dict(enumerate([proxies.answer_cut, error(503, "SlowDown"), proxies.answer_lost]))

    def every_second(request: Request) -> Fault:
        return faults[request.number // 2] if request.number % 2 == 0 else proxies.passed_on

    proxy.fault = every_second
    assert [found.key for found in store.list("flows/")] == [f"flows/{name}" for name in names]
    assert len(proxy.requests) == 6
    proxy.fault = first()
    assert [found.key for found in store.list("flows/", "flows/2097")] == ["flows/2098", "flows/2099"]


def test_an_object_of_another_that_came_before_the_second_attempt_is_not_ours(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str, store: S3Store
) -> None:
    def another_is_first(exchange: Exchange) -> None:
        gateway.client().put_object(Bucket=bucket, Key=f"team/lake/{KEY}", Body=b"of another")
        proxies.request_lost(exchange)

    proxy.fault = first(another_is_first, method="PUT")
    with pytest.raises(ObjectExists):
        store.put_if_absent(KEY, BODY)
    assert stored(gateway, bucket, KEY) == b"of another"


def test_a_request_that_somebody_on_the_way_repeats_reads_as_an_object_that_exists(
    proxy: FaultyProxy, store: S3Store
) -> None:
    proxy.fault = first(proxies.twice, method="PUT")
    with pytest.raises(ObjectExists):  # whose body the protocol then finds to be its own (step 7)
        store.put_if_absent(KEY, BODY)
    assert store.get(KEY) == BODY


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (error(503, "SlowDown"), r"S3 asks to slow down \(SlowDown\), after 9 tries"),
        (proxies.page(502, b""), "S3 answers 502, after 9 tries"),
        (proxies.answer_lost, r"no answer from 127.0.0.1:\d+ \(connection closed\), after 9 tries"),
        (proxies.answer_cut, "the answer was cut off, after 9 tries"),
        (proxies.answer_damaged, "the answer was damaged on its way, after 9 tries"),
        (proxies.slow(10.0), r"no answer from 127.0.0.1:\d+ \(read timeout\), after 9 tries"),
    ],
)
def test_what_does_not_pass_is_said_after_10_seconds_of_growing_waits(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str, store: S3Store, fault: Fault, text: str
) -> None:
    store.put_if_absent(KEY, BODY)
    waits = Waits()
    patient = S3Store(
        S3Place(bucket, "team/lake/"),
        S3Config(),
        patience=replace(Patience(), read_seconds=0.1),
        time=waits.time(),
        connect=lambda patience: gateway.client(patience=patience, url=proxy.url),
    )
    proxy.fault = always(fault)
    with pytest.raises(StoreUnavailable, match=f"^cannot read the lake at s3://{bucket}/team/lake/{KEY}: {text}"):
        patient.get(KEY)
    assert waits.waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]


def test_a_create_whose_every_answer_is_lost_may_have_happened(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str, store: S3Store
) -> None:
    proxy.fault = always(proxies.answer_lost)
    with pytest.raises(StoreUnavailable):
        store.put_if_absent(KEY, BODY)
    assert stored(gateway, bucket, KEY) == BODY


def test_a_server_that_ignores_the_condition_is_found_out_with_the_first_object(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str
) -> None:
    store = S3Store(
        S3Place(bucket, ""), S3Config(), connect=lambda patience: gateway.client(patience=patience, url=proxy.url)
    )
    proxy.fault = first(proxies.passed_on, proxies.page(200, b""), method="PUT")
    with pytest.raises(StoreError, match="ignores If-None-Match"):
        store.put_if_absent(KEY, BODY)
    assert proxy.requests[0].headers["if-none-match"] == proxy.requests[1].headers["if-none-match"] == "*"


def test_a_server_that_lists_in_another_order_is_found_out(proxy: FaultyProxy, store: S3Store) -> None:
    keys = "".join(f"<Contents><Key>team/lake/{key}</Key><Size>1</Size></Contents>" for key in "acb")
    proxy.fault = always(proxies.page(200, f"<ListBucketResult>{keys}</ListBucketResult>".encode()))
    with pytest.raises(StoreError, match="gives b after c, not in the order of the keys"):
        list(store.list(""))


def test_new_objects_are_encrypted_with_the_key_that_was_set(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str
) -> None:
    store = S3Store(
        S3Place(bucket, ""),
        S3Config(kms_key="alias/lake"),
        connect=lambda patience: gateway.client(patience=patience, url=proxy.url),
        part_bytes=5 * MiB,
    )
    proxy.fault = always(error(501, "NotImplemented"))  # this server has no KMS
    for body in (b"", bytes(6 * MiB)):
        with pytest.raises(StoreError, match="this server cannot do it"):
            store.put_if_absent(KEY, body)
    assert [request.path for request in proxy.requests] == [f"/{bucket}/{KEY}", f"/{bucket}/{KEY}?uploads"]
    for request in proxy.requests:
        assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/lake"


# --- in parts


LARGE = b"".join(number.to_bytes(4, "big") for number in range(3 * MiB))


def unfinished(gateway: Versitygw, bucket: str) -> list[Any]:
    uploads: list[Any] = gateway.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return uploads


PARTS = {
    "nothing": first(),
    "the second part is lost": first(proxies.request_lost, of="partNumber=2"),
    "the answer to the first part is lost": first(proxies.answer_lost, of="partNumber=1"),
    "the beginning fails": first(error(503, "SlowDown"), of="?uploads"),
    "the completion is lost": first(proxies.request_lost, of="?uploadId", method="POST"),
    "the answer to the completion is lost": first(proxies.answer_lost, of="?uploadId", method="POST"),
    "the completion fails with status 200": first(error(200, "InternalError"), of="?uploadId", method="POST"),
    "the completion conflicts": first(error(409, "ConditionalRequestConflict"), of="?uploadId", method="POST"),
    "the upload is gone": first(error(404, "NoSuchUpload"), of="?uploadId", method="POST"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_large_object_is_created_in_parts_whatever_fails(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str, store: S3Store, name: str
) -> None:
    proxy.fault = PARTS[name]
    store.put_if_absent(KEY, LARGE)
    assert stored(gateway, bucket, KEY) == LARGE
    assert store.get(KEY) == LARGE
    assert unfinished(gateway, bucket) == []
    with pytest.raises(ObjectExists):
        store.put_if_absent(KEY, LARGE[1:])
    assert stored(gateway, bucket, KEY) == LARGE
    assert unfinished(gateway, bucket) == []


def test_an_upload_that_fails_for_good_leaves_no_parts(
    gateway: Versitygw, proxy: FaultyProxy, bucket: str, store: S3Store
) -> None:
    proxy.fault = always(error(503, "SlowDown"), of="partNumber=2")
    with pytest.raises(StoreUnavailable, match="slow down"):
        store.put_if_absent(KEY, LARGE)
    assert unfinished(gateway, bucket) == []
    with pytest.raises(ObjectMissing):
        store.get(KEY)


# --- many writers


@pytest.mark.parametrize("body_bytes", [40, 6 * MiB], ids=["whole", "in parts"])
def test_of_writers_through_two_servers_over_one_directory_exactly_one_creates(
    gateway: Versitygw, bucket: str, body_bytes: int
) -> None:
    rounds, writers = (25, 16) if body_bytes < MiB else (2, 4)
    with Versitygw(gateway.directory) as second, ThreadPoolExecutor(writers) as pool:
        stores = [
            S3Store(S3Place(bucket, ""), S3Config(), connect=server.connect, part_bytes=5 * MiB)
            for server in (gateway, second)
        ]
        for turn in range(rounds):
            barrier = threading.Barrier(writers)

            def create(number: int, turn: int = turn, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                try:
                    stores[number % 2].put_if_absent(f"turn/{turn}", bytes([number]) * body_bytes)
                except ObjectExists:
                    return False
                return True

            won = [number for number, winner in enumerate(pool.map(create, range(writers))) if winner]
            assert len(won) == 1
            assert (gateway.directory / bucket / f"turn/{turn}").read_bytes() == bytes([won[0]]) * body_bytes


# --- what a person has to mend


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, gateway: Versitygw, tmp_path: Path) -> Callable[[str, str], None]:
    """Only what a test sets: the endpoint, and a credentials file that it may write again (profile, secret)."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    credentials = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.url)

    def write(access: str, secret: str) -> None:
        credentials.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")

    write(ROOT.access, ROOT.secret)
    return write


def store_of_environment(bucket: str) -> S3Store:
    return S3Store(S3Place(bucket, "lake/"), S3Config(), patience=QUICK, time=Waits().time())


def refusal(operation: Callable[[], object], kind: type[StoreError] = StoreUnavailable) -> str:
    """The one line that is said; it holds no secret."""
    with pytest.raises(StoreError) as caught:
        operation()
    text = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in text
    assert ROOT.secret not in text
    assert "wrong-secret" not in text
    return text


KEYS_ADVICE = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the role of this host"


def test_wrong_keys_are_said_and_right_ones_in_the_file_are_taken_without_a_restart(
    bucket: str, environment: Callable[[str, str], None]
) -> None:
    store = store_of_environment(bucket)
    environment(ROOT.access, "wrong-secret")
    assert refusal(lambda: store.put_if_absent("a", BODY)) == (
        f"cannot write to the lake at s3://{bucket}/lake/a: the secret key is wrong; check {KEYS_ADVICE}"
    )
    environment("nobody", "wrong-secret")
    assert refusal(lambda: list(store.list("flows/"))) == (
        f"cannot list the lake at s3://{bucket}/lake/flows/: S3 does not know the access key; check {KEYS_ADVICE}"
    )
    environment(ROOT.access, ROOT.secret)
    store.put_if_absent("a", BODY)
    assert store.get("a") == BODY


def test_no_keys_are_said_and_taken_once_there_are_some(
    bucket: str, environment: Callable[[str, str], None], tmp_path: Path
) -> None:
    (tmp_path / "credentials").unlink()
    store = store_of_environment(bucket)
    assert refusal(lambda: store.get("a")) == (
        f"cannot read the lake at s3://{bucket}/lake/a: no usable AWS credentials (no credentials); give {KEYS_ADVICE}"
    )
    environment(ROOT.access, ROOT.secret)
    with pytest.raises(ObjectMissing):
        store.get("a")


def test_a_missing_bucket_is_said_and_used_once_it_is_made(
    gateway: Versitygw, bucket: str, environment: Callable[[str, str], None]
) -> None:
    store = store_of_environment(f"{bucket}-later")
    for operation in (lambda: store.get("a"), lambda: store.put_if_absent("a", BODY), lambda: list(store.list(""))):
        text = refusal(operation)
        assert text.endswith("there is no such bucket; create it, or set FLOWLAKE_LAKE to the right one")
    gateway.client().create_bucket(Bucket=f"{bucket}-later")
    store.put_if_absent("a", BODY)


def test_a_denied_put_is_said_and_done_once_it_is_allowed(
    gateway: Versitygw, bucket: str, environment: Callable[[str, str], None]
) -> None:
    reader = Keys(f"user-of-{bucket}", "another-secret")
    gateway.add_user(reader)

    def allow(*actions: str) -> None:
        resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        statements = [
            {"Effect": "Allow", "Principal": {"AWS": [reader.access]}, "Action": action, "Resource": resources[on]}
            for action, on in ((f"s3:{action}", action != "ListBucket") for action in actions)
        ]
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        gateway.client().put_bucket_policy(Bucket=bucket, Policy=policy)

    allow("GetObject", "ListBucket")
    environment(reader.access, reader.secret)
    store = store_of_environment(bucket)
    assert list(store.list("")) == []
    assert refusal(lambda: store.put_if_absent("a", BODY)) == (
        f"cannot write to the lake at s3://{bucket}/lake/a: access denied; "
        "allow s3:PutObject there, and the use of its KMS key"
    )
    allow("GetObject", "ListBucket", "PutObject")
    store.put_if_absent("a", BODY)
    assert store.get("a") == BODY
    assert "allow s3:DeleteObject there" in refusal(lambda: store.delete("a"))


def test_a_server_that_is_away_is_said_and_used_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: Callable[[str, str], None]
) -> None:
    (tmp_path / "buckets/lake-1").mkdir(parents=True)
    with Versitygw(tmp_path / "buckets") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        store = store_of_environment("lake-1")
        store.put_if_absent("a", BODY)
        server.stop()
        text = refusal(lambda: store.get("a"))
        assert f"nothing listens at 127.0.0.1:{server.port}, after " in text
        assert text.endswith("tries; check AWS_ENDPOINT_URL and the network")
        server.start()
        assert store.get("a") == BODY


def test_a_host_without_an_address_is_said(
    bucket: str, monkeypatch: pytest.MonkeyPatch, environment: Callable[[str, str], None]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:wrong-secret@lake.invalid:9000")
    text = refusal(lambda: store_of_environment(bucket).get("a"))
    assert "the host lake.invalid:9000 is unknown, after " in text


def test_an_endpoint_that_is_no_url_ends_it(
    bucket: str, monkeypatch: pytest.MonkeyPatch, environment: Callable[[str, str], None]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "s3.example.com")
    text = refusal(lambda: store_of_environment(bucket).get("a"), StoreError)
    assert text.endswith("boto3 says Invalid endpoint: s3.example.com; check the AWS_... settings")


def test_tls_that_does_not_fit_is_said_and_a_ca_in_the_bundle_mends_it(
    gateway: Versitygw,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: Callable[[str, str], None],
) -> None:
    store = store_of_environment(bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.url.replace("http:", "https:"))
    assert refusal(lambda: store.get("a")).endswith("it does not speak TLS; begin AWS_ENDPOINT_URL with http://")

    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    subprocess.run(
        [*request.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    with Versitygw(gateway.directory, flags={"cert": str(certificate), "key": str(key)}) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("http:", "https:"))
        text = refusal(lambda: store.get("a"))
        assert "its TLS certificate is not trusted (self" in text
        assert text.endswith("set AWS_CA_BUNDLE to the file of its CA")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        store.put_if_absent("a", BODY)
        assert store.get("a") == BODY


def test_a_bucket_in_another_region_than_was_set_is_found(
    gateway: Versitygw, bucket: str, monkeypatch: pytest.MonkeyPatch, environment: Callable[[str, str], None]
) -> None:
    with Versitygw(gateway.directory, flags={"region": "eu-central-1"}) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_REGION", "us-west-2")
        store = store_of_environment(bucket)
        store.put_if_absent("a", BODY)
        assert store.get("a") == BODY


SAID = {
    "ExpiredToken": (400, StoreUnavailable, f"the credentials have expired; renew {KEYS_ADVICE}"),
    "InvalidToken": (400, StoreUnavailable, "S3 does not know the session token; check AWS_SESSION_TOKEN, which"),
    "RequestTimeTooSkewed": (403, StoreUnavailable, "the clocks of this host and of S3 differ; set the clock"),
    "KMS.DisabledException": (400, StoreUnavailable, "the KMS key is disabled; enable it"),
    "KMS.KMSInvalidStateException": (
        400,
        StoreUnavailable,
        "KMS refuses its key (KMS.KMSInvalidStateException); allow",
    ),
    "PermanentRedirect": (400, StoreError, "the bucket is in another region; set AWS_REGION to the bucket's"),
    "NotImplemented": (501, StoreError, "this server cannot do it; use one that knows If-None-Match"),
    "MethodNotAllowed": (405, StoreError, "this server does not take it; check AWS_ENDPOINT_URL"),
    "Whatever": (418, StoreError, "S3 answers 418 Whatever: two lines; check AWS_ENDPOINT_URL"),
}


@pytest.mark.parametrize("code", SAID)
def test_an_error_of_s3_is_one_line_that_says_what_to_do(proxy: FaultyProxy, store: S3Store, code: str) -> None:
    status, kind, text = SAID[code]
    proxy.fault = always(error(status, code, message="two\nlines"))
    assert text in refusal(lambda: store.put_if_absent("a", BODY), kind)
    proxy.fault = first()
    store.put_if_absent("a", BODY)


def test_a_web_server_that_is_no_s3_is_not_taken_for_an_empty_lake(proxy: FaultyProxy, store: S3Store) -> None:
    proxy.fault = always(proxies.page(404, b"<html>Not here"))
    assert "an answer 404 that does not say why" in refusal(lambda: store.get("a"))
    proxy.fault = always(proxies.page(200, b"<html>Welcome"))
    assert "S3 answers 500" in refusal(lambda: list(store.list("")))  # which is what boto3 makes of it
