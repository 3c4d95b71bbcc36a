"""From a lake's URI to its store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lake.open_store import open_store
from lake.s3_place import S3Place, s3_place
from settings.errors import WrongUse


def test_open_store_takes_paths_and_file_uris(tmp_path: Path) -> None:
    open_store(str(tmp_path / "a lake")).put_if_absent("a", b"body")
    assert open_store(f"file://{tmp_path}/a%20lake").get("a") == b"body"
    assert open_store(f"file://localhost{tmp_path}/a%20lake").get("a") == b"body"


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("s3://bucket", S3Place("bucket", "")),
        ("s3://bucket/", S3Place("bucket", "")),
        ("s3://my.bucket-1/lake", S3Place("my.bucket-1", "lake/")),
        ("s3://bucket/a b/c#d/", S3Place("bucket", "a b/c#d/")),
    ],
)
def test_an_s3_uri_is_a_bucket_and_the_beginning_of_all_keys(uri: str, place: S3Place) -> None:
    assert s3_place(uri) == place


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("gs://bucket/lake", "gs:// is no store that flowlake knows"),
        ("file://host/lake", "expected file:/// and an absolute path"),
        ("", "expected a directory"),
        ("s3://", "expected s3://bucket"),
        ("s3:///lake", "expected s3://bucket"),
        ("s3://Bucket", "expected s3://bucket"),
        ("s3://key:secret@bucket/lake", "expected s3://bucket"),
        ("s3://bucket/a//b", "empty, . or .. part"),
        ("s3://bucket/../b", "empty, . or .. part"),
    ],
)
def test_open_store_says_what_it_does_not_take(uri: str, text: str) -> None:
    with pytest.raises(WrongUse, match=text):
        open_store(uri)


def test_a_lake_in_a_directory_does_not_load_boto3(tmp_path: Path) -> None:
    code = (
        "import sys; from lake.open_store import open_store; open_store('lake')\n"
        "print({'boto3', 'botocore'} & set(sys.modules))\n"
        "open_store('s3://bucket/lake'); print('boto3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "True"]
