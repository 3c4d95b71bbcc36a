"""The store of a lake, by its URI."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lake.config import S3Config
from lake.local_store import LocalStore
from lake.s3_place import s3_place
from lake.store import Store
from settings.errors import WrongUse


def open_store(uri: str, s3: S3Config = S3Config()) -> Store:  # noqa: B008
    """A directory, as a path or file:// URI, or s3://bucket/prefix. Opens nothing yet. Raises WrongUse."""
    scheme, separator, _ = uri.partition("://")
    if not separator:
        if not uri:
            raise WrongUse("the lake is '', expected a directory; set FLOWLAKE_LAKE")
        return LocalStore(Path(uri))
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise WrongUse(f"the lake is {uri}, expected file:/// and an absolute path")
        return LocalStore(Path(unquote(parts.path)))
    if scheme == "s3":
        place = s3_place(uri)
        try:
            from lake.s3_store import S3Store  # here, since boto3 takes 20 MB that a lake in a directory does without
        except ModuleNotFoundError as error:
            raise WrongUse(f"the lake is {uri}, which needs boto3: pip install 'flowlake[s3]'") from error
        return S3Store(place, s3)
    raise WrongUse(
        f"the lake is {uri}, but {scheme}:// is no store that flowlake knows; "
        "set FLOWLAKE_LAKE to a directory or s3://bucket/prefix"
    )
