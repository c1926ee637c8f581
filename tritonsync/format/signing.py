"""Ed25519 signatures over manifests, and which of them this process trusts.

A signature covers the manifest's canonical JSON without `signature`; in a namespace, the canonical JSON of
`{"manifest": <that>, "namespace": <name>}`. The manifest holds the sha256 of everything else in its bundle, so it
covers the bundle. A key's id is the first 16 hex digits of sha256 over its 32 raw public bytes, and the namespace where
there is one: bundles of two namespaces have different names, and neither is in the other's way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from tritonsync.errors import ManifestError, SettingsError, TrustError
from tritonsync.format.layout import BundlePlace
from tritonsync.format.manifest import (
    Manifest,
    Signature,
    check_readable,
    decode,
    signed_bytes,
)

# Imported where there is a key: it takes longer to import than the rest of this room, and most readers have none.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Signer", "TrustPolicy", "key_id", "make_pems"]


# The keys are sorted, so a signature stands right before these two; what they hold has a length that is known.
_SIGNATURE = re.compile(
    rb',"signature":\{"ed25519":"([^"\\]{0,128})","key_id":"([^"\\]{0,128})"\}'
    rb'(?=(?:,"value":(?:null|\{"sha256":"[0-9a-f]{64}","size":\d{1,20}\}))?,"variant":"[A-Za-z0-9_.-]{1,255}"\}\Z)'
)
#: Where a signature begins at the latest, counted from the end.
_TAIL = 1024


def key_id(public: Ed25519PublicKey, namespace: str = "") -> str:
    """Return the 16 hex digits that name a key in the manifests of a namespace."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw + namespace.encode(errors="surrogateescape")).hexdigest()[:16]


def make_pems() -> tuple[bytes, bytes]:
    """Make a new key: as the PEM documents of the private key (PKCS8, not encrypted) and of the public one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    private = Ed25519PrivateKey.generate()
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def _covered(document: bytes, namespace: str) -> bytes:
    """Return what is signed, of a manifest's canonical JSON without its signature."""
    if not namespace:
        return document
    return b'{"manifest":' + document + b',"namespace":' + json.dumps(namespace).encode() + b"}"


class Signer:
    """Signs manifests with one private key.

    Args:
        private: the key.
        namespace: what the signatures are for; they count there alone.
    """

    def __init__(self, private: Ed25519PrivateKey, namespace: str = "") -> None:
        self._private = private
        self.namespace = namespace
        self.public = private.public_key()
        self.key_id = key_id(self.public, namespace)

    @classmethod
    def from_pem(cls, data: bytes, name: str = "the signing key", namespace: str = "") -> Signer:
        """Read an unencrypted PKCS8 private key; `name` says in messages where it came from.

        Raises:
            SettingsError: it is not one.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise SettingsError(f"{name} is not an unencrypted private key in PEM form: {exc}; {_MAKE_KEY}") from exc
        if not isinstance(private, Ed25519PrivateKey):
            raise SettingsError(f"{name} is a private key of another kind than Ed25519; {_MAKE_KEY}")
        return cls(private, namespace)

    def sign(self, manifest: Manifest) -> Manifest:
        """Return the manifest with this key's signature in place of any other."""
        # The id of the key is part of the bundle's name, not of the signed bytes: it says which key to try, no more.
        covered = _covered(signed_bytes(manifest), self.namespace)
        signature = base64.b64encode(self._private.sign(covered)).decode()
        return msgspec.structs.replace(manifest, signature=Signature(key_id=self.key_id, ed25519=signature))


class TrustPolicy:
    """Whose signatures count.

    Args:
        keys: key id to public key. Empty: everything is trusted, signed or not.
        namespace: what they have to have signed for.
    """

    def __init__(self, keys: Mapping[str, Ed25519PublicKey] | None = None, namespace: str = "") -> None:
        self._keys = dict(keys or {})
        self._namespace = namespace

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of the trusted keys; empty: everything is trusted."""
        return frozenset(self._keys)

    @classmethod
    def from_pems(cls, pems: Iterable[bytes], namespace: str = "") -> TrustPolicy:
        """Trust these public keys, each a PEM document, in a namespace.

        Raises:
            SettingsError: one of them is not an Ed25519 public key.
        """
        pems = list(pems)
        if not pems:
            return cls({}, namespace)
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        keys: dict[str, Ed25519PublicKey] = {}
        for number, pem in enumerate(pems, 1):
            try:
                public = load_pem_public_key(pem)
            except (ValueError, UnsupportedAlgorithm) as exc:
                raise SettingsError(
                    f"trusted key {number} is not a public key in PEM form: {exc}; {_SHOW_KEY}"
                ) from exc
            if not isinstance(public, Ed25519PublicKey):
                raise SettingsError(f"trusted key {number} is of another kind than Ed25519; {_SHOW_KEY}")
            keys[key_id(public, namespace)] = public
        return cls(keys, namespace)

    def including(self, signer: Signer) -> TrustPolicy:
        """Return a policy that trusts this signer too; where everything was trusted, this signer alone."""
        namespace = self._namespace if self._keys else signer.namespace
        return TrustPolicy({**self._keys, signer.key_id: signer.public}, namespace)

    def accept(self, data: bytes, place: BundlePlace) -> Manifest:
        """Read a manifest, if it is signed by whom this policy trusts and may stand where it stands.

        The signature comes first: what nobody signed who is trusted costs no more than a look at its format, however
        much it holds.

        Args:
            data: the object's bytes.
            place: where it was found.

        Raises:
            NewerFormatError: a newer tritonsync wrote it.
            ManifestError: it does not validate, or is that of another bundle.
            TrustError: keys are configured, and none of them signed it.
        """
        if self._keys:
            self._verify(data, place.manifest)
        manifest = decode(data, place.manifest)
        if manifest.place != place:
            raise ManifestError(
                f"{place.manifest}: holds the manifest of another bundle, {manifest.place.prefix}",
                object_name=place.manifest,
            )
        return manifest

    def _verify(self, data: bytes, name: str) -> None:
        check_readable(data, name)
        document, signature = _split(data) or (b"", None)
        self._check(document, signature, name)

    def signer_of(self, manifest: Manifest) -> str | None:
        """Return the id of the trusted key that signed a manifest; None: none that is known here has."""
        if not self._keys or manifest.signature is None:
            return None
        try:
            self.check(manifest, manifest.place.manifest)
        except TrustError:
            return None
        return manifest.signature.key_id

    def check(self, manifest: Manifest, name: str) -> None:
        """Accept a manifest, or not; `name` is the object it came from, for messages.

        Raises:
            TrustError: keys are configured, and none of them signed it.
        """
        if self._keys:
            self._check(signed_bytes(manifest), manifest.signature, name)

    def _check(self, document: bytes, signature: Signature | None, name: str) -> None:
        if signature is None:
            raise TrustError(f"{name}: not signed, and only signed bundles are trusted here", object_name=name)
        public = self._keys.get(signature.key_id)
        if public is None:
            raise TrustError(
                f"{name}: signed by key {signature.key_id[:80]!r}, which is not trusted here"
                f"{f' in namespace {self._namespace[:80]!r}' if self._namespace else ''}",
                object_name=name,
            )
        from cryptography.exceptions import InvalidSignature

        try:
            public.verify(base64.b64decode(signature.ed25519, validate=True), _covered(document, self._namespace))
        except (InvalidSignature, ValueError) as exc:
            raise TrustError(f"{name}: the signature of key {signature.key_id} is wrong", object_name=name) from exc


def _split(data: bytes) -> tuple[bytes, Signature] | None:
    """Cut the signature out of a manifest's bytes, without parsing them; None: there is none where it has to stand.

    Of what `decode` accepts, the bytes that are left are `signed_bytes`: in canonical JSON every quote inside a text is
    escaped, so what is cut out can only be the member of that name, and only at the top are `value` or `variant` next.
    Of anything else they are whatever they are, and `decode` has to refuse it.
    """
    found = _SIGNATURE.search(data, max(0, len(data) - _TAIL))
    if found is None:
        return None
    ed25519, identity = (part.decode(errors="replace") for part in found.groups())
    return data[: found.start()] + data[found.end() :], Signature(key_id=identity, ed25519=ed25519)


_MAKE_KEY = "make one with: tritonsync keygen, or openssl genpkey -algorithm ed25519 -out signing-key.pem"
_SHOW_KEY = "make it with: openssl pkey -in signing-key.pem -pubout -out trusted-key.pem"
