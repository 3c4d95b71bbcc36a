"""Where in S3 a lake is. The endpoint, the region and the credentials are AWS's own settings, as boto3 reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from settings.errors import WrongUse

# docs.aws.amazon.com, "General purpose bucket naming rules"; other servers allow no more.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where a lake is: a bucket, and what all its keys begin with ("" or ending with /)."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def s3_place(uri: str) -> S3Place:
    """Of `s3://bucket/prefix`. Raises WrongUse."""
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme != "s3" or _BUCKET.fullmatch(parts.netloc) is None or parts.query:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # people put passwords before an @
        raise WrongUse(f"the lake is {shown}, expected s3://bucket or s3://bucket/prefix; set FLOWLAKE_LAKE")
    prefix = parts.path.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise WrongUse(f"the lake is {uri}, but its prefix has an empty, . or .. part; set FLOWLAKE_LAKE")
    return S3Place(parts.netloc, prefix + "/" if prefix else "")
