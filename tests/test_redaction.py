"""What errors, log lines, `repr` and the command line may not say."""

from __future__ import annotations

import json
import logging
import pickle
import time

import pytest

from tritonsync import Bucket, messages
from tritonsync.cli.output import Output, complain
from tritonsync.errors import RemoteError, SettingsError
from tritonsync.messages import warn_once
from tritonsync.redaction import redact, redacted, redacted_command
from tritonsync.remote.url import parse_url
from tritonsync.settings import Settings

SECRET = "hunter2/abc+DEF=="


@pytest.mark.parametrize(
    "text",
    [
        f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/prefix",
        f"cannot open 'ftp://user:{SECRET}@host:21/dir'",
        f"https://{SECRET.replace('/', '')}@host/p is not there",
        f"https://a.blob.core.windows.net/c?sv=2024&sig={SECRET}&se=1",
        f"https://h/o?X-Amz-Signature={SECRET}&X-Amz-Security-Token={SECRET}",
        f"https://h/o?X-Amz-Credential={SECRET}&X-Goog-Signature={SECRET}",
        f"GET /?token={SECRET} HTTP/1.1",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"{{'Authorization': 'AWS4-HMAC-SHA256 Credential={SECRET}, Signature={SECRET}'}}",
        f"X-Amz-Security-Token: {SECRET}",
        f"invalid header: bearer {SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"aws_session_token = {SECRET}",
        f"export AWS_SESSION_TOKEN='{SECRET}'",
        f"connect(host='h', password='{SECRET} x', port=1)",
        f'{{"secret": "{SECRET}", "anon": false}}',
        f'"{{\\"client_secret\\": \\"{SECRET}\\"}}"',
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET};EndpointSuffix=x",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        "ya29.hunter2-abc",
        "eyJhbGciOiJIUzI1NiJ9hunter2.eyJzdWIiOiIx.c2ln",
        f"python train.py --api-key {SECRET} --steps 3",
        f"python train.py --aws-secret-access-key '{SECRET} x'",
        f"sh -c 'train --hf_token {SECRET}'",
        f"curl -u me:{SECRET} https://h",
        f"curl --user=me:{SECRET} https://h",
        "login with hf_hunter2AbCdEfGhIjKlMnOpQrStUvWxYz",
        "export X=sk-proj-hunter2-abc_DEF",
        "git clone ghp_hunter2AbCdEfGhIjKlMnOpQrStUvWx",
        f"redirect=https%3A%2F%2Fh%2F%3Fsig%3D{SECRET}",
    ],
)
def test_secrets_are_left_out(text: str) -> None:
    """Whatever way they are written, nothing of them stays."""
    shown = redact(text)
    assert "***" in shown
    for part in ("hunter2", "abc+DEF", "AKIAIOSFODNN7EXAMPLE"):
        assert part not in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix/bundles/fx_graph/key",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/prefix@v1",
        "http://127.0.0.1:9000/bucket/who@example",
        "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
        "TRITONSYNC_SIGNING_KEY=/keys/signing-key.pem: the key file cannot be read",
        "ClientError: An error occurred (InvalidToken) when calling PutObject: The provided token is malformed",
        "NoAuthTokenError: Error loading SSO Token: Token for x does not exist",
        "bundles/x/manifest.json: signed by key '0123456789abcdef', which is not trusted here",
        "max_tokens=2048, num_tokens = 4, tokenizer='llama', token_count=7",
        "the signature of key 0123456789abcdef is wrong",
        "docker run -u 1000:1000 --max-tokens 5 --tokenizer llama -u root --secret --verbose",
        "hf_hub_download of sk-learn-contrib-extras failed in disk-usage-of-2026",
        "kernel triton_poi_fused_5: its files are not those of content id 9f86",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """What a user needs in order to act is still there."""
    assert redact(text) == text


PARTS = ("a", "secret", "://", "x-", "token=", "'", "-----BEGIN PRIVATE KEY-----", "password': '", "s3://a:")
OPTIONS = ("--", "--a", " --token", " -u ", " -u a:", "sk-", " sk-a", "hf_", "--token '", "-a-token-")


def test_long_texts_take_no_longer() -> None:
    """What a server sends does not decide how long a message takes."""
    started = time.process_time()
    for part in (
        "a",
        "secret",
        "://",
        "x-",
        "token=",
        "'",
        "-----BEGIN PRIVATE KEY-----",
        "password': '",
        "s3://a:",
        *OPTIONS,
    ):
        redact(part * (100_000 // len(part)))
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["t.py", "--api-key", "hunter2 'x\" y"], "t.py --api-key ***"),
        (["t.py", "--password", "-hunter2"], "t.py --password ***"),
        (["t.py", "-token", "hunter2", "--db-pass", "hunter2"], "t.py -token *** --db-pass ***"),
        (["t.py", "--aws-secret-access-key=hunter2 & x"], "t.py '--aws-secret-access-key=***'"),
        (["env", "HF_TOKEN=hunter2;x", "a.api_key=hunter2 x"], "env 'HF_TOKEN=***' 'a.api_key=***'"),
        (["curl", "-u", "me:hunter2 x", "ftp://me:hunter2@h/p"], "curl -u *** 'ftp://***@h/p'"),
        (["sh", "-c", "t.py --password 'hunter2 x'"], "sh -c 't.py --password ***'"),
        (["t.py", "--use-auth-token", "--steps", "3"], "t.py --use-auth-token --steps 3"),
        (
            ["t.py", "token", "3", "--bypass", "4", "-u", "0:0", "--max-tokens", "5"],
            "t.py token 3 --bypass 4 -u 0:0 --max-tokens 5",
        ),
        (["python", "-c", "x = 'pass'; print(1)"], "python -c 'x = '\"'\"'pass'\"'\"'; print(1)'"),
    ],
)
def test_a_command_is_told_without_its_secrets(command: list[str], shown: str) -> None:
    """Whatever is in an argument that follows the name of a secret; all others stay."""
    assert redacted_command(command) == shown
    assert redact(shown) == shown


def test_errors_never_hold_a_secret() -> None:
    """Neither the message nor the URL that a caller reads, here or after a way between processes."""
    url = f"s3://key:{SECRET}@bucket/p"
    error = RemoteError(f"cannot read {url}: token={SECRET}", url=url)
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert "hunter2" not in f"{each} {each!r} {each.url}"
        assert "bucket/p" in str(each)


def test_settings_print_without_secrets() -> None:
    """A program may log what it was given."""
    settings = Settings(url=f"s3://key:{SECRET}@bucket/p", storage_options={"secret": SECRET})
    shown = repr(settings)
    assert "hunter2" not in shown
    assert "s3://***@bucket/p" in shown
    assert settings.url is not None
    assert SECRET in settings.url


def test_a_wrong_variable_is_not_repeated_with_its_secret() -> None:
    """Not even where the secret stands in the wrong variable."""
    with pytest.raises(SettingsError, match="TRITONSYNC_BUDGET_S") as caught:
        Settings.from_env({"TRITONSYNC_BUDGET_S": f"token={SECRET}"})
    assert "hunter2" not in str(caught.value)


def test_documents_are_redacted_all_through() -> None:
    """Texts at any depth; keys, numbers and None stay."""
    document = {"url": f"s3://k:{SECRET}@b", "bundles": [{"problem": f"sig={SECRET}", "size": 3, "x": None}]}
    assert redacted(document) == {"url": "s3://***@b", "bundles": [{"problem": "sig=***", "size": 3, "x": None}]}


def test_warnings_hold_no_secret_of_a_cause(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback names the causes of an error, which are other people's."""
    monkeypatch.setattr(messages, "_said", set())
    log = logging.getLogger("tritonsync.test")
    failure = RuntimeError("failed")
    failure.__cause__ = ValueError(f"https://h/?sig={SECRET}")
    warn_once(log, "cause", "it failed: %r", OSError(f"token={SECRET}"), exc_info=failure)
    assert "hunter2" not in caplog.text
    assert "ValueError: https://h/?sig=***" in caplog.text
    assert "it failed: OSError('token=***" in caplog.text


@pytest.mark.parametrize("url", [f"s3://key:{SECRET}@bucket/p", "GS://hunter2@bucket/p"])
def test_credentials_in_the_url_of_an_object_store_are_refused(url: str) -> None:
    """No client reads them there, and the message shows where they go, but not them."""
    with pytest.raises(SettingsError, match=r"\*\*\*@bucket.*holds credentials") as caught:
        parse_url(url)
    assert "hunter2" not in f"{caught.value} {caught.value.url}"


def test_addresses_show_no_secrets() -> None:
    """Other filesystems do take users and passwords from the URL; nobody is told them."""
    address = parse_url("ftp://user:hunter2@host/kernels")
    assert address.url == "ftp://user:hunter2@host/kernels"
    with Bucket("ftp://user:hunter2@host/kernels") as bucket:
        assert bucket.url == "ftp://***@host/kernels"
        assert "hunter2" not in f"{bucket!r} {address!r} {address.show('tritonsync.json')}"


def test_commands_print_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as text, nor as JSON, nor as a complaint."""
    document = {"url": f"ftp://user:{SECRET}@host", "bundles": [{"problem": f"token={SECRET}"}]}
    Output(as_json=True).result(document, "")
    Output(as_json=False).result({}, f"pushed to ftp://user:{SECRET}@host")
    Output(as_json=False).say(f"sig={SECRET}")
    Output(as_json=False).table(("URL",), [(f"ftp://user:{SECRET}@host",)])
    complain(f"ValueError: password={SECRET}")
    printed = capsys.readouterr()
    assert "hunter2" not in printed.out + printed.err
    assert json.loads(printed.out.partition("pushed")[0])["url"] == "ftp://***@host"
