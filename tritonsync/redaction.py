"""What may leave: texts without the secrets in them.

Everything that is said, through an error, a log line, `repr` or the command line, goes through here.

Imports: nothing.
"""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["redact", "redacted", "redacted_command", "traceback_of"]

T = TypeVar("T")

#: What stands in the place of a secret.
_HIDDEN = "***"
#: Words in the names of what is secret: `X-Amz-Security-Token`, `aws_secret_access_key`, `sig`, `password`.
_NAME = (
    r"(?:token(?!s|iz|_c)|secret|signature|credential|passw(?:or)?d|passphrase|authorization|api[_-]?key|access[_-]?key"
    r"|account[_-]?key|private[_-]?key|customer[_-]?key|(?:(?<![a-z])|(?<=%3f)|(?<=%26))(?:sig|pwd)(?![a-z_-]))"
)
#: Options whose value is a user and a password, and what also stands behind them: numbers of a user and of a group.
_USER, _NUMBERS = r"(?:-u|--(?:proxy-)?user)", r"\d{1,9}:\d{1,9}"
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
    # --api-key ..., --password '...'; -u user:password, but for numbers of users and groups.
    (
        rf"((?<![\w-])-{{1,2}}[\w.-]{{0,60}}?{_NAME}[\w.-]{{0,40}}\s{{1,4}})(?!--)(?:(['\"])(?:(?!\2).)*\2?|[^\s'\"]+)",
        rf"\1{_HIDDEN}",
    ),
    (rf"((?<![\w-]){_USER}[\s=]{{1,4}}['\"]?)(?!{_NUMBERS}(?!\S))[^\s:'\"]{{1,128}}:[^\s'\"]+", rf"\1{_HIDDEN}"),
    # What is a secret by its form alone: tokens of Google, signed JSON, tokens of Hugging Face, OpenAI, GitHub, GitLab.
    (r"\bya29\.[\w.-]+|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*", _HIDDEN),
    (r"\bhf_[a-z0-9]{20,}|(?<![\w-])sk-(?=[a-z_-]{0,40}\d)[\w-]{12,}", _HIDDEN),
    (r"\bgh[a-z]_[a-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}", _HIDDEN),
)
_REPLACEMENTS = tuple((re.compile(pattern, re.IGNORECASE | re.DOTALL), by) for pattern, by in _PATTERNS)
#: An argument, or what is in front of its `=`, that names a secret.
_SECRET_NAME = re.compile(rf"-{{0,2}}[\w.-]{{0,60}}?(?:{_NAME}[\w.-]{{0,40}}|(?<![a-z])pass)", re.IGNORECASE)
_USER_NAME = re.compile(_USER, re.IGNORECASE)


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


def redacted_command(arguments: Sequence[str]) -> str:
    """Return a command as a shell would read it, without the secrets in its arguments.

    Here it is known where an argument ends, so what follows a name goes whole, whatever is in it.
    """
    return shlex.join(_hidden(arguments)).replace(f"'{_HIDDEN}'", _HIDDEN)


def _hidden(arguments: Sequence[str]) -> Iterator[str]:
    before = ""
    for argument in arguments:
        name, assigned, value = argument.partition("=")
        if _names_secret(before, argument) and not argument.startswith("--"):
            yield _HIDDEN
        elif assigned and (_SECRET_NAME.fullmatch(name) or _names_secret(name, value)):
            yield f"{name}={_HIDDEN}"
        else:
            yield redact(argument)
        before = argument


def _names_secret(option: str, value: str) -> bool:
    """Whether the value of an option is a secret."""
    if _USER_NAME.fullmatch(option):
        return ":" in value and re.fullmatch(_NUMBERS, value) is None
    return option.startswith("-") and _SECRET_NAME.fullmatch(option) is not None


def traceback_of(exc: BaseException) -> str:
    """Return the traceback of an exception; what foreign ones among its causes say may hold secrets."""
    return redact("".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip())
