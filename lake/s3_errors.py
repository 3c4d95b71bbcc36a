"""What an error of boto3 means for a lake: one line that says what to do, and whether trying again can help.

    passing       no answer, or one that S3 itself calls temporary      tried again, then StoreUnavailable
    mendable      access, credentials, a bucket that is missing, TLS    StoreUnavailable at once; the next operation
                                                                        connects anew, and so reads credentials anew
    refused       what no waiting mends: settings, or this server       StoreError
    exists, missing                                                     the operation's own to judge

The texts are ours wherever the code is known: a server's may repeat the request, and with it keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

import botocore.exceptions as boto
import urllib3.exceptions
from botocore.parsers import ResponseParserError

from lake.store import StoreError, StoreUnavailable


class Verdict(Enum):
    EXISTS = "exists"
    MISSING = "missing"
    PASSING = "passing"
    MENDABLE = "mendable"
    REFUSED = "refused"


# What a call of boto3 may raise; urllib3's and the system's own come through while a body is read. ValueError: an
# endpoint that is no URL.
FAILURES = (
    boto.BotoCoreError,
    boto.ClientError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
    OSError,
    ValueError,
)

_PASSING = {
    "BadDigest": "the body was damaged on its way",
    "ConditionalRequestConflict": "S3 is busy with another upload to that key",
    "IncompleteBody": "the body was cut off on its way",
    "InternalError": "S3 failed",
    "NoSuchUpload": "the upload in parts is gone",
    "OperationAborted": "S3 is busy with another operation there",
    "RequestTimeout": "S3 got no more of the request",
    "SlowDown": "S3 asks to slow down",
    "Throttling": "S3 asks to slow down",
    "ThrottlingException": "S3 asks to slow down",
    "XAmzContentChecksumMismatch": "the body was damaged on its way",
    "XAmzContentSHA256Mismatch": "the body was damaged on its way",
}

_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the role of this host"
_MENDABLE = {
    "AccountProblem": ("the AWS account is suspended", "settle it with AWS"),
    "AllAccessDisabled": ("access is disabled", "ask who runs the bucket"),
    "ExpiredToken": ("the credentials have expired", f"renew {_CREDENTIALS}"),
    "ExpiredTokenException": ("the credentials have expired", f"renew {_CREDENTIALS}"),
    "InvalidAccessKeyId": ("S3 does not know the access key", f"check {_CREDENTIALS}"),
    "InvalidToken": ("S3 does not know the session token", "check AWS_SESSION_TOKEN, which belongs to its access key"),
    "KMS.DisabledException": ("the KMS key is disabled", "enable it"),
    "KMS.NotFoundException": ("there is no such KMS key", "check FLOWLAKE_S3_KMS_KEY and the bucket's default key"),
    "NoSuchBucket": ("there is no such bucket", "create it, or set FLOWLAKE_LAKE to the right one"),
    "QuotaExceeded": ("the quota is used up", "raise it, or free space there"),
    "RequestExpired": ("the request came too late", "set the clock of this host (NTP)"),
    "RequestTimeTooSkewed": ("the clocks of this host and of S3 differ", "set the clock of this host (NTP)"),
    "SignatureDoesNotMatch": ("the secret key is wrong", f"check {_CREDENTIALS}"),
    "TokenRefreshRequired": ("the credentials have expired", f"renew {_CREDENTIALS}"),
}

_REGION = ("the bucket is in another region", "set AWS_REGION to the bucket's")
_REFUSED = {
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "MethodNotAllowed": ("this server does not take it", "check AWS_ENDPOINT_URL"),
    "NotImplemented": (
        "this server cannot do it",
        "use one that knows If-None-Match, as Amazon S3 and versitygw 1.8 do",
    ),
    "KeyTooLongError": ("the key is too long", "shorten the prefix in FLOWLAKE_LAKE"),
    "EntityTooLarge": ("the object is too large for this server", "lower FLOWLAKE_RANGE_BYTES"),
}

# What the bucket's policy has to allow for each action.
_PERMISSIONS = {
    "write to": "s3:PutObject",
    "read": "s3:GetObject",
    "list": "s3:ListBucket",
    "delete from": "s3:DeleteObject",
}

_NO_CREDENTIALS = (
    boto.ConfigParseError,
    boto.CredentialRetrievalError,
    boto.LoginError,
    boto.MetadataRetrievalError,
    boto.NoAuthTokenError,
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.SSOError,
    boto.TokenRetrievalError,
)
_NO_ANSWER = (
    boto.ChecksumError,
    boto.ConnectionError,
    boto.FlexibleChecksumError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """what: what went wrong, for people. advice: what to do about it, may be empty."""

    verdict: Verdict
    what: str
    advice: str = ""

    @property
    def then(self) -> str:
        return f"; {self.advice}" if self.advice else ""

    def error(self, doing: str) -> StoreError:
        """For what the operation does not judge by itself. doing: `cannot read ...`."""
        kind = StoreUnavailable if self.verdict in (Verdict.PASSING, Verdict.MENDABLE) else StoreError
        return kind(f"{doing}: {self.what}{self.then}")


def understand(error: BaseException, action: str) -> Failure:
    """error: one of FAILURES. action: `read`, `write to`, `list`, `delete from`."""
    if isinstance(error, boto.ClientError):
        return _of_answer(error, action)
    if isinstance(error, _NO_CREDENTIALS):
        return Failure(Verdict.MENDABLE, f"no usable AWS credentials ({_kind(error)})", f"give {_CREDENTIALS}")
    if isinstance(error, boto.SSLError):
        return _of_tls(str(error))
    if isinstance(error, _NO_ANSWER):
        return Failure(Verdict.PASSING, _no_answer(error), "check AWS_ENDPOINT_URL and the network")
    return Failure(Verdict.REFUSED, f"boto3 says {_one_line(error)}", "check the AWS_... settings")


def _of_answer(error: boto.ClientError, action: str) -> Failure:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "PreconditionFailed" or status == 412:
        return Failure(Verdict.EXISTS, "there is an object already")
    if code == "NoSuchKey":
        return Failure(Verdict.MISSING, "there is no object")
    if code in _PASSING:
        return Failure(Verdict.PASSING, f"{_PASSING[code]} ({code})")
    if code in _MENDABLE:
        return Failure(Verdict.MENDABLE, *_MENDABLE[code])
    if code in _REFUSED:
        return Failure(Verdict.REFUSED, *_REFUSED[code])
    if code.startswith("KMS."):
        return Failure(Verdict.MENDABLE, f"KMS refuses its key ({code})", "allow kms:GenerateDataKey and kms:Decrypt")
    if code == "AccessDenied" or status in (401, 403):
        advice = f"allow {_PERMISSIONS[action]} there, and the use of its KMS key"
        return Failure(Verdict.MENDABLE, "access denied", advice)
    if (status >= 500 and status != 501) or status in (408, 429):
        return Failure(Verdict.PASSING, f"S3 answers {status}")
    if code == str(status):  # botocore's, where the body could not be read: cut off, or not from an S3
        return Failure(Verdict.PASSING, f"an answer {status} that does not say why", "check AWS_ENDPOINT_URL")
    said = _one_line(error.response.get("Error", {}).get("Message", ""))
    return Failure(Verdict.REFUSED, f"S3 answers {status or ''} {code}: {said}", "check AWS_ENDPOINT_URL")


def _of_tls(text: str) -> Failure:
    """OpenSSL's own words are in the text of the error that wraps it."""
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return Failure(
            Verdict.MENDABLE,
            f"its TLS certificate is not trusted{f' ({why})' if why else ''}",
            "set AWS_CA_BUNDLE to the file of its CA",
        )
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return Failure(Verdict.MENDABLE, "it does not speak TLS", "begin AWS_ENDPOINT_URL with http://")
    return Failure(Verdict.MENDABLE, "the TLS handshake failed", "check AWS_ENDPOINT_URL and AWS_CA_BUNDLE")


def _no_answer(error: BaseException) -> str:
    """In words, with the host that was asked: never the whole URL, which may hold a password."""
    details = getattr(error, "kwargs", {})  # what botocore made its text of
    host = urlsplit(str(details.get("endpoint_url", ""))).netloc.rpartition("@")[2]
    from_host = f" from {host}" if host else ""
    text = f"{error} {details.get('error', '')}"  # a failed connection says why only in what it wraps
    if "NameResolutionError" in text or "Failed to resolve" in text or "Name or service not known" in text:
        return f"the host {host} is unknown"
    if "Connection refused" in text:
        return f"nothing listens at {host}"
    if isinstance(error, boto.IncompleteReadError | boto.ResponseStreamingError | urllib3.exceptions.HTTPError):
        return "the answer was cut off"
    if isinstance(error, boto.FlexibleChecksumError | boto.ChecksumError):
        return "the answer was damaged on its way"
    if isinstance(error, ResponseParserError):
        return "the answer is not S3's"
    if type(error) is boto.HTTPClientError:  # of what it wraps only the text is left
        return f"no answer{from_host} ({_one_line(details.get('error', ''))})"
    return f"no answer{from_host} ({_kind(error)})"


def _kind(error: BaseException) -> str:
    """`ReadTimeoutError` as `read timeout`."""
    words = re.sub(r"(?<!^)(?=[A-Z][a-z])", " ", type(error).__name__.removesuffix("Error"))
    return words.lower()


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:200]
