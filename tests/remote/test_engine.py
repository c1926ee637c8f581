"""Which client is taken, and what the faster one needs beside the contract that all keep."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faultproxy import FaultProxy, answer
from tests.servers import Place, Server, take_engine
from tritonsync.errors import AccessDeniedError, MissingExtraError, SettingsError
from tritonsync.remote import engine
from tritonsync.remote.bucket import Bucket
from tritonsync.remote.engine import Engine, choose
from tritonsync.remote.url import parse_url
from tritonsync.remote.waiting import RetryPolicy
from tritonsync.settings import EngineChoice

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1"}
REGION = {"AWS_DEFAULT_REGION": "eu-west-1"}
ROLE = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/r", **REGION}
CONTAINER = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1", **REGION}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without any configuration, on a machine of no cloud, with obstore installed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(engine, "read_file", lambda path: "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return tmp_path


def chosen(
    url: str, environ: Mapping[str, str], options: Mapping[str, Any] | None = None, wanted: EngineChoice = "auto"
) -> Engine:
    return choose(parse_url(url), options or {}, wanted, environ)


@pytest.mark.parametrize(
    ("environ", "options", "reason"),
    [
        (KEYS, {}, "keys in the environment"),
        ({**KEYS, "AWS_SESSION_TOKEN": "t"}, {}, "keys in the environment"),
        (REGION, {"key": "k", "secret": "s"}, "keys in the storage options"),
        ({}, {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9000"}, "keys in the storage options"),
        ({}, {"key": "k", "secret": "s", "client_kwargs": {"region_name": "eu-west-1"}}, "keys in the storage options"),
        (
            {"AWS_CA_BUNDLE": "/ca.pem", "AWS_ENDPOINT_URL": "http://10.0.0.7:9000", **KEYS},
            {},
            "keys in the environment",
        ),
        (REGION, {"anon": True}, "anonymous, as the storage options say"),
        (REGION, {"anon": True, "requester_pays": False, "default_block_size": 5}, "anonymous, as the storage"),
        (ROLE, {}, "web identity"),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x", **REGION}, {}, "role of the container"),
        ({"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/token", **CONTAINER}, {}, "role of the container"),
    ],
)
def test_s3_is_served_by_obstore_where_it_finds_the_same(
    environ: Mapping[str, str], options: Mapping[str, Any], reason: str, home: Path
) -> None:
    """Environment, web identity and container roles, and options that both know."""
    found = chosen("s3://bucket/prefix", environ, options)
    assert found.name == "obstore", found.reason
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("environ", "options", "reason"),
    [
        ({**KEYS, "AWS_PROFILE": "work"}, {}, "AWS_PROFILE"),
        ({**KEYS, "AWS_CA_BUNDLE": "/ca.pem"}, {}, "AWS_CA_BUNDLE"),
        ({**KEYS, "REQUESTS_CA_BUNDLE": "/ca.pem", "AWS_ENDPOINT_URL": "https://minio"}, {}, "REQUESTS_CA_BUNDLE"),
        ({**KEYS, "AWS_ENDPOINT": "http://other"}, {}, "AWS_ENDPOINT"),
        (KEYS, {"profile": "work"}, "'profile'"),
        (KEYS, {"requester_pays": True}, "'requester_pays'"),
        (KEYS, {"s3_additional_kwargs": {"ServerSideEncryption": "AES256"}}, "'s3_additional_kwargs'"),
        (KEYS, {"client_kwargs": {"verify": "/ca.pem"}}, "'client_kwargs'"),
        (KEYS, {"config_kwargs": {"read_timeout": 5}}, "'config_kwargs'"),
        ({**KEYS, "AWS_REGION": ""}, {}, "no region"),
        ({"AWS_ACCESS_KEY_ID": "k", **REGION}, {}, "one half is missing"),
        ({"AWS_SESSION_TOKEN": "t", **REGION}, {"key": "k", "secret": "s"}, "AWS_SESSION_TOKEN"),
        (CONTAINER, {}, "one half is missing"),
        (REGION, {}, "no credentials that obstore would find"),
    ],
)
def test_s3_is_served_by_s3fs_where_obstore_would_not_do_the_same(
    environ: Mapping[str, str], options: Mapping[str, Any], reason: str, home: Path
) -> None:
    """Profiles, options and variables that only s3fs understands, and an unknown region."""
    found = chosen("s3://bucket/prefix", environ, options)
    assert found.name == "s3fs"
    assert reason in found.reason


@pytest.mark.parametrize(
    ("name", "text", "environ", "taken"),
    [
        ("config", "[default]\nregion = eu-west-1\noutput = json\n", {**KEYS, "AWS_REGION": ""}, "obstore"),
        ("config", "[profile work]\nsso_session = x\n", KEYS, "obstore"),
        ("config", "[default]\nsso_session = x\nregion = eu-west-1\n", REGION, "s3fs"),
        ("config", "[default]\ncredential_process = /bin/give\n", REGION, "s3fs"),
        ("config", "[default]\nendpoint_url = http://minio\n", KEYS, "s3fs"),
        ("config", "no ini file", KEYS, "s3fs"),
        ("credentials", "[default]\naws_access_key_id = k\n", REGION, "s3fs"),
        ("credentials", "[default]\naws_access_key_id = k\n", KEYS, "obstore"),
    ],
)
def test_a_default_profile_in_play_is_left_to_s3fs(
    name: str, text: str, environ: Mapping[str, str], taken: str, home: Path
) -> None:
    """SSO, credential processes, shared keys and endpoints of files; a region alone is read from there."""
    (home / ".aws").mkdir()
    (home / ".aws" / name).write_text(text)
    assert chosen("s3://bucket/prefix", environ).name == taken


@pytest.mark.parametrize(
    "url", ["s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/point/a", "s3://b--use1-az4--x-s3/a"]
)
def test_buckets_that_are_none_are_left_to_s3fs(url: str, home: Path) -> None:
    """Access points and directory buckets have hosts of their own."""
    assert chosen(url, KEYS).name == "s3fs"


def test_the_role_of_an_instance_is_used_on_an_instance(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The firmware says whose machine this is; elsewhere s3fs says which credentials are missing."""
    monkeypatch.setattr(engine, "read_file", lambda path: "Amazon EC2\n")
    assert chosen("s3://bucket/prefix", REGION).reason == "role of the instance"
    assert chosen("s3://bucket/prefix", REGION).name == "obstore"
    assert chosen("s3://bucket/prefix", {**REGION, "AWS_EC2_METADATA_DISABLED": "true"}).name == "s3fs"
    assert chosen("gs://bucket/prefix", {}).name == "gcsfs"
    monkeypatch.setattr(engine, "read_file", lambda path: "Google Compute Engine\n")
    assert chosen("gs://bucket/prefix", {}, wanted="obstore").name == "obstore"
    assert chosen("s3://bucket/prefix", REGION).name == "s3fs"


@pytest.mark.parametrize("kind", ["service_account", "authorized_user"])
def test_gcs_is_left_to_gcsfs_unless_the_user_decides(kind: str, home: Path) -> None:
    """Nobody has tried obstore against Google's own server; with key files it can be told to go there."""
    path = home / "key.json"
    path.write_text(json.dumps({"type": kind}))
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}
    assert chosen("gs://bucket/prefix", environ).name == "gcsfs"
    assert chosen("gs://bucket/prefix", environ, wanted="obstore").name == "obstore"


def test_the_user_decides(home: Path) -> None:
    """Against doubts, but not against what cannot work."""
    doubtful = {**KEYS, "AWS_PROFILE": "work"}
    assert chosen("s3://bucket/prefix", doubtful, wanted="obstore").name == "obstore"
    assert chosen("s3://bucket/prefix", KEYS, wanted="s3fs") == Engine("s3fs", "TRITONSYNC_ENGINE=s3fs")
    assert chosen("gs://bucket/prefix", {}, wanted="s3fs").name == "gcsfs"
    assert chosen("/folder", KEYS, wanted="obstore").name == "file"
    with pytest.raises(SettingsError, match=r"TRITONSYNC_ENGINE=obstore.*requester_pays"):
        chosen("s3://bucket/prefix", KEYS, {"requester_pays": True}, wanted="obstore")


def test_without_obstore_nothing_changes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs serves, and who asks for obstore is told what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen("s3://bucket/prefix", KEYS) == Engine("s3fs", "obstore is not installed")
    with pytest.raises(MissingExtraError, match=r"pip install 'tritonsync\[fast\]'"):
        chosen("s3://bucket/prefix", KEYS, wanted="obstore")


def test_the_variable_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt engine is a settings error that names the variable."""
    monkeypatch.setenv("TRITONSYNC_ENGINE", "boto")
    with pytest.raises(SettingsError, match=r"TRITONSYNC_ENGINE='boto'"):
        Bucket("s3://bucket/prefix")


def test_secrets_are_not_shown(home: Path) -> None:
    """What is printed of an engine is its name and reason."""
    assert "geheim" not in repr(chosen("s3://bucket/p", REGION, {"key": "k", "secret": "geheim"}))


def test_options_of_fsspecs_own_configuration_are_seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count as if they had been given."""
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"requester_pays": True})
    assert "requester_pays" in chosen("s3://bucket/prefix", KEYS).reason
    assert chosen("s3://bucket/prefix", KEYS, {"requester_pays": False}).name == "obstore"


# ---- with obstore ------------------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    take_engine("obstore", monkeypatch)


@pytest.fixture
def place(fast: None, s3_proxy: FaultProxy, moto_server: Server) -> Place:
    return moto_server.place(endpoint=s3_proxy.url)


@pytest.fixture
def bucket(place: Place) -> Iterator[Bucket]:
    with Bucket(place.url, storage_options=place.options, patience=RetryPolicy(pause=0.01)) as opened:
        yield opened


@pytest.mark.parametrize(
    "elsewhere",
    [answer(301), answer(400, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>")],
    ids=["redirect", "wrong-signature"],
)
def test_a_bucket_in_another_region_is_left_to_s3fs(elsewhere: Any, bucket: Bucket, s3_proxy: FaultProxy) -> None:
    """s3fs finds out where it is; from then on it serves."""
    assert bucket.engine.name == "obstore"
    s3_proxy.fail(elsewhere)
    assert bucket.create("a", b"x")
    assert bucket.get("a", limit=1_000_000) == b"x"
    assert "botocore" in s3_proxy.requests[-1].headers["user-agent"].lower()


def test_names_that_obstore_does_not_take_are_listed_all_the_same(bucket: Bucket, place: Place) -> None:
    """What somebody else wrote below the prefix does not hide our own objects."""
    import s3fs

    theirs = s3fs.S3FileSystem(skip_instance_cache=True, **place.options)
    theirs.call_s3("put_object", Bucket=place.bucket, Key="some/prefix/a//b", Body=b"x")
    bucket.create("a/ours", b"x")
    assert "a/ours" in bucket.list("a/")


def test_missing_credentials_are_said_to_be_missing(
    fast: None, s3_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody answers for the instance, the user is told what to set."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    with (
        Bucket(s3_place.url, storage_options={"endpoint_url": s3_place.endpoint}) as bucket,
        pytest.raises(AccessDeniedError, match=r"no credentials.*AWS_PROFILE"),
    ):
        bucket.get("a", limit=1_000_000)


@pytest.mark.parametrize("name", ["s3fs", "obstore"])
def test_both_find_the_role_of_a_container(
    name: str, s3_proxy: FaultProxy, s3_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials come from the address that the container was given."""
    take_engine(name, monkeypatch)
    token = tmp_path / "token"
    token.write_text("secret")
    facts = {"AccessKeyId": "k", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
    s3_proxy.fail(answer(200, json.dumps(facts).encode(), Content_Type="application/json"), path="/role")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{s3_proxy.url}/role")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
    with Bucket(s3_place.url, storage_options={"endpoint_url": s3_place.endpoint}) as bucket:
        assert bucket.create("a", b"x")
        assert bucket.get("a", limit=1_000_000) == b"x"
    assert s3_proxy.count("GET", "/role") == 1


def test_gcs_is_asked_to_create_only(
    fast: None, s3_proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """object_store speaks GCS' XML interface, which no emulator has, so answers are put into its mouth."""
    key = {"type": "service_account", "gcs_base_url": s3_proxy.url, "disable_oauth": True}
    path = tmp_path / "key.json"
    path.write_text(json.dumps({**key, "client_email": "", "private_key": "", "private_key_id": ""}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    headers = {"ETag": '"e"', "Last_Modified": "Thu, 26 Nov 2026 10:00:00 GMT"}
    listed = (
        b"<Contents><Key>p/a/object</Key><Size>1</Size><LastModified>2026-11-26T10:00:00Z</LastModified></Contents>"
    )
    with Bucket("gs://some-bucket/p", patience=RetryPolicy(attempts=1)) as bucket:
        s3_proxy.fail(answer(200, b"", **headers))
        assert bucket.create("a/object", b"x")
        assert s3_proxy.requests[-1].headers["x-goog-if-generation-match"] == "0"
        s3_proxy.fail(answer(200, b"x", **headers))
        assert bucket.get("a/object", limit=1_000_000) == b"x"
        s3_proxy.fail(answer(404))
        assert bucket.get("a/none", limit=1_000_000) is None
        s3_proxy.fail(answer(200, b"<ListBucketResult>" + listed + b"</ListBucketResult>"))
        assert list(bucket.list("a/")) == ["a/object"]
        s3_proxy.fail(answer(412))
        assert not bucket.create("a/object", b"x")
        s3_proxy.fail(answer(403), times=2)
        with pytest.raises(AccessDeniedError, match=r"storage\.objectViewer"):
            bucket.get("a/object", limit=1_000_000)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")  # Python 3.12 warns of any fork with threads
def test_a_forked_child_goes_back_to_s3fs(bucket: Bucket) -> None:
    """The runtime of the parent's client has no threads there, and a new one cannot be started."""
    bucket.create("a", b"x")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            right = bucket.engine.name == "s3fs" and "forked" in bucket.engine.reason
            status = 0 if right and bucket.get("a", limit=1_000_000, timeout=30) == b"x" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert bucket.engine.name == "obstore"
    assert bucket.get("a", limit=1_000_000) == b"x"


BEGINNING = """
import sys
from tritonsync.session import session
from tritonsync.settings import Settings
session.start(Settings.from_env())
print([name for name in ("asyncio", "fsspec", "s3fs") if name in sys.modules])
"""


@pytest.mark.parametrize(("kind", "engine"), [("s3", "obstore"), ("folder", "auto")])
def test_a_program_begins_without_an_event_loop(
    kind: str, engine: str, s3_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own thread imports nothing that only fsspec's other clients need."""
    take_engine(engine, monkeypatch)
    url = s3_place.url if kind == "s3" else str(tmp_path / "bucket")
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING],
        env={**os.environ, **s3_place.environment, "TRITONSYNC_URL": url, "TRITONSYNC_QUIET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


ENDING = """
import sys, threading, time
from tritonsync.remote.bucket import Bucket
bucket = Bucket(sys.argv[1])
bucket.get("a", limit=1_000_000)
for _ in range(16):
    threading.Thread(target=lambda: [bucket.get("a", limit=1_000_000) for _ in range(1000)], daemon=True).start()
time.sleep(float(sys.argv[2]))
"""


def test_a_program_that_ends_while_it_asks_ends_well(fast: None, rclone_place: Place) -> None:
    """Answers that come while Python is being taken down hurt nobody."""
    codes = [
        subprocess.run(
            [sys.executable, "-c", ENDING, rclone_place.url, str(0.01 * number)],
            env={**os.environ, **rclone_place.environment},
            cwd=Path(__file__).parents[2],
            check=False,
            timeout=60,
        ).returncode
        for number in range(4)
    ]
    assert codes == [0, 0, 0, 0]
