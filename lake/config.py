"""Settings of the lake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from settings import setting
from settings.errors import WrongUse


@dataclass(frozen=True)
class LakeConfig:
    """Where the lake is, for those who write it and those who ask it"""

    uri: str = setting("data/lake", "the lake: a folder, a file:// URI of one, or s3://bucket/prefix", name="lake")


@dataclass(frozen=True)
class S3Config:
    """A lake on S3; endpoint, region and credentials are set as for every AWS client (AWS_ENDPOINT_URL, AWS_...)"""

    kms_key: str | None = setting(
        None, "key (ARN, id or alias) that S3 encrypts new objects with; none: as the bucket says", name="s3_kms_key"
    )


def local_path(uri: str) -> Path:
    """The folder of a lake's URI. Raises WrongUse for stores that this version cannot ask."""
    if "://" not in uri:
        return Path(uri).resolve()
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise WrongUse(f"cannot ask the lake {uri}: give a folder, or file:///path/of/the/lake")
    return Path(unquote(parts.path)).resolve()
