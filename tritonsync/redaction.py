"""What may leave: texts without the secrets in them.

Everything that is said, through an error, a log line, `repr` or the command line, goes through here.

Imports: nothing.
"""

from __future__ import annotations

import re
import traceback
from typing import TypeVar

__all__ = ["redact", "redacted", "traceback_of"]

T = TypeVar("T")

#: What stands in the place of a secret.
_HIDDEN = "***"
#: Words in the names of what is secret: `X-Amz-Security-Token`, `aws_secret_access_key`, `sig`, `password`.
_NAME = (
    r"(?:token(?!s|iz|_c)|secret|signature|credential|passw(?:or)?d|passphrase|authorization|api[_-]?key|access[_-]?key"
    r"|account[_-]?key|private[_-]?key|customer[_-]?key|(?:(?<![a-z])|(?<=%3f)|(?<=%26))(?:sig|pwd)(?![a-z_-]))"
)
#: Each is linear in the text: foreign messages, and names in a bucket, may be of any length.
_PATTERNS = (
    # s3://user:password@bucket. A secret key of AWS may hold slashes; an ARN and a port are none.
    (r"(://)[^\s/'\"@]{1,512}@", rf"\1{_HIDDEN}@"),
    (r"(://)(?!arn:)[^\s/:'\"@]{1,128}:(?!\d{1,5}/)[^\s'\"@]{1,512}@", rf"\1{_HIDDEN}@"),
    (r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", _HIDDEN),
    # 'password': '...' of a printed dict, or of JSON.
    (rf"({_NAME}[\w-]{{0,40}}(\\?['\"])\s{{0,4}}:\s{{0,4}}b?(\\?['\"]))(?:(?!\3).)+", rf"\1{_HIDDEN}"),
    # Authorization: Bearer ...; X-Amz-Security-Token: ...
    (r"(authorization\s{0,4}:\s{0,4})(?:\w[\w-]{0,30}\s{1,4})?[^\s,;'\"]+", rf"\1{_HIDDEN}"),
    (rf"((?<=-){_NAME}[\w-]{{0,40}}\s{{0,4}}:\s{{0,4}})[^\s,;'\"]+", rf"\1{_HIDDEN}"),
    (r"(\b(?:bearer|basic)\s{1,4})[\w.~+/=-]{12,}", rf"\1{_HIDDEN}"),
    # ?sig=...&token=..., PASSWORD='...', aws_session_token = ...
    (
        rf"({_NAME}[\w-]{{0,40}}(?:\s{{0,4}}=(?!=)\s{{0,4}}|%3D))(?:(['\"])(?:(?!\2).)*|[^\s&'\",;)}}\]>]+)",
        rf"\1{_HIDDEN}",
    ),
    # What is a secret by its form alone: tokens of Google, and signed JSON.
    (r"\bya29\.[\w.-]+|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*", _HIDDEN),
)
_REPLACEMENTS = tuple((re.compile(pattern, re.IGNORECASE | re.DOTALL), by) for pattern, by in _PATTERNS)


def redact(text: str) -> str:
    """Return a text without the secrets in it: users and passwords of URLs, tokens, signatures, keys.

    Everything that leaves through an error, a log line, `repr` or the command line goes through here.
    """
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    return text


def redacted(value: T) -> T:
    """Return a JSON document without the secrets in its texts."""
    if isinstance(value, str):
        return redact(value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}  # type: ignore[return-value]
    if isinstance(value, (list, tuple)):
        return [redacted(item) for item in value]  # type: ignore[return-value]
    return value


def traceback_of(exc: BaseException) -> str:
    """Return the traceback of an exception; what foreign ones among its causes say may hold secrets."""
    return redact("".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip())
