"""An AWS account on loopback: moto behind TLS and behind plain HTTP, both with the same content.

Signatures and policies are checked of everybody, Terraform included; who sets things up is a user who may do anything.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from moto.core.authorization import enable_iam_authentication
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tests.terraform.conditions import conditions_evaluated

__all__ = ["Account", "Identity", "open_account"]

_NO_RETRIES = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})


@dataclass(frozen=True)
class Identity:
    """Credentials, as the environment variables that every AWS client reads."""

    environ: dict[str, str]

    def client(self, service: str, url: str | None = None) -> Any:
        """Return a boto3 client that uses them, and tries once."""
        return boto3.client(
            service,
            endpoint_url=url or self.environ["AWS_ENDPOINT_URL"],
            region_name=self.environ["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=self.environ.get("AWS_SESSION_TOKEN"),
            verify=self.environ["AWS_CA_BUNDLE"],
            config=_NO_RETRIES,
        )


@dataclass(frozen=True)
class Account:
    """Where it answers, and who may ask.

    Attributes:
        url: over TLS.
        plain_url: the same, over plain HTTP.
        owner: a user who may do anything that no bucket policy forbids.
    """

    url: str
    plain_url: str
    owner: Identity

    def user(self, name: str, *policy_arns: str) -> Identity:
        """Make an IAM user that has nothing but these policies."""
        iam = self.owner.client("iam")
        iam.create_user(UserName=name)
        for arn in policy_arns:
            iam.attach_user_policy(UserName=name, PolicyArn=arn)
        return self._identity(iam.create_access_key(UserName=name)["AccessKey"])

    def user_with(self, name: str, *statements: dict[str, Any]) -> Identity:
        """Make an IAM user with these statements of its own."""
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        created = self.owner.client("iam").create_policy(PolicyName=name, PolicyDocument=document)
        return self.user(name, created["Policy"]["Arn"])

    def assume(self, role_arn: str) -> Identity:
        """Return the identity of whoever takes this role."""
        answer = self.owner.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="worker")
        return self._identity(answer["Credentials"])

    def _identity(self, key: dict[str, str]) -> Identity:
        environ = {
            **self.owner.environ,
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }
        if "SessionToken" in key:
            environ["AWS_SESSION_TOKEN"] = key["SessionToken"]
        return Identity(environ)


@contextmanager
def open_account(folder: Path) -> Iterator[Account]:
    """Start the servers; `folder` takes their certificate."""
    certificate, key = _self_signed(folder)
    with ExitStack() as stack:
        url = f"https://127.0.0.1:{stack.enter_context(_serve((str(certificate), str(key))))}"
        plain_url = f"http://127.0.0.1:{stack.enter_context(_serve(None))}"
        environ = {
            "AWS_ENDPOINT_URL": url,
            "AWS_CA_BUNDLE": str(certificate),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "nobody checks it yet",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        nobody = Account(url=url, plain_url=plain_url, owner=Identity(environ))
        anything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        owner = nobody.user_with("owner", anything)
        stack.enter_context(conditions_evaluated())
        stack.enter_context(enable_iam_authentication())
        yield Account(url=url, plain_url=plain_url, owner=owner)


@contextmanager
def _serve(ssl_context: tuple[str, str] | None) -> Iterator[int]:
    # moto's own ThreadedMotoServer speaks no TLS.
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server(
        "127.0.0.1", 0, application, threaded=True, request_handler=_QuietHandler, ssl_context=ssl_context
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _QuietHandler(MotoRequestHandler):  # type: ignore[misc]
    def log(self, *_: object) -> None:
        """Say nothing."""


def _self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        # OpenSSL's strict mode, Python's default since 3.13, asks for both identifiers.
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
