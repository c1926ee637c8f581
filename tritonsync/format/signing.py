"""Ed25519 signatures over manifests, and which of them this process trusts.

A signature covers the manifest's canonical JSON without `signature`. The manifest holds the sha256 of everything else
in its bundle, so it covers the bundle. A key's id is the first 16 hex digits of sha256 over its 32 raw public bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from tritonsync.errors import ManifestError, SettingsError, TrustError
from tritonsync.format.layout import BundlePlace
from tritonsync.format.manifest import Manifest, Signature, decode, signed_bytes

__all__ = ["Signer", "TrustPolicy", "key_id"]


def key_id(public: Ed25519PublicKey) -> str:
    """Return the 16 hex digits that name a key in manifests."""
    return hashlib.sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


class Signer:
    """Signs manifests with one private key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key()
        self.key_id = key_id(self.public)

    @classmethod
    def from_pem(cls, data: bytes, name: str = "the signing key") -> Signer:
        """Read an unencrypted PKCS8 private key; `name` says in messages where it came from.

        Raises:
            SettingsError: it is not one.
        """
        try:
            private = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise SettingsError(f"{name} is not an unencrypted private key in PEM form: {exc}; {_MAKE_KEY}") from exc
        if not isinstance(private, Ed25519PrivateKey):
            raise SettingsError(f"{name} is a private key of another kind than Ed25519; {_MAKE_KEY}")
        return cls(private)

    def sign(self, manifest: Manifest) -> Manifest:
        """Return the manifest with this key's signature in place of any other."""
        # The id of the key is part of the bundle's name, not of the signed bytes: it says which key to try, no more.
        signature = base64.b64encode(self._private.sign(signed_bytes(manifest))).decode()
        return msgspec.structs.replace(manifest, signature=Signature(key_id=self.key_id, ed25519=signature))


class TrustPolicy:
    """Whose signatures count.

    Args:
        keys: key id to public key. Empty: everything is trusted, signed or not.
    """

    def __init__(self, keys: Mapping[str, Ed25519PublicKey] | None = None) -> None:
        self._keys = dict(keys or {})

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of the trusted keys; empty: everything is trusted."""
        return frozenset(self._keys)

    @classmethod
    def from_pems(cls, pems: Iterable[bytes]) -> TrustPolicy:
        """Trust these public keys, each a PEM document.

        Raises:
            SettingsError: one of them is not an Ed25519 public key.
        """
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
            keys[key_id(public)] = public
        return cls(keys)

    def including(self, signer: Signer) -> TrustPolicy:
        """Return a policy that trusts this signer too; where everything was trusted, this signer alone."""
        return TrustPolicy({**self._keys, signer.key_id: signer.public})

    def accept(self, data: bytes, place: BundlePlace) -> Manifest:
        """Read a manifest, if it may stand where it stands and is signed by whom this policy trusts.

        Args:
            data: the object's bytes.
            place: where it was found.

        Raises:
            NewerFormatError: a newer tritonsync wrote it.
            ManifestError: it does not validate, or is that of another bundle.
            TrustError: keys are configured, and none of them signed it.
        """
        manifest = decode(data, place.manifest)
        if manifest.place != place:
            raise ManifestError(
                f"{place.manifest}: holds the manifest of another bundle, {manifest.place.prefix}",
                object_name=place.manifest,
            )
        self.check(manifest, place.manifest)
        return manifest

    def check(self, manifest: Manifest, name: str) -> None:
        """Accept a manifest, or not; `name` is the object it came from, for messages.

        Raises:
            TrustError: keys are configured, and none of them signed it.
        """
        if not self._keys:
            return
        signature = manifest.signature
        if signature is None:
            raise TrustError(f"{name}: not signed, and only signed bundles are trusted here", object_name=name)
        public = self._keys.get(signature.key_id)
        if public is None:
            raise TrustError(
                f"{name}: signed by key {signature.key_id[:80]!r}, which is not trusted here", object_name=name
            )
        try:
            public.verify(base64.b64decode(signature.ed25519, validate=True), signed_bytes(manifest))
        except (InvalidSignature, ValueError) as exc:
            raise TrustError(f"{name}: the signature of key {signature.key_id} is wrong", object_name=name) from exc


_MAKE_KEY = "make one with: openssl genpkey -algorithm ed25519 -out signing-key.pem"
_SHOW_KEY = "make it with: openssl pkey -in signing-key.pem -pubout -out trusted-key.pem"
