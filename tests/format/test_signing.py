import base64

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given

from tests.format.strategies import bundles
from tritonsync.errors import SettingsError, TrustError
from tritonsync.format import manifest as manifests
from tritonsync.format.bundle import Bundle
from tritonsync.format.manifest import Environment, Manifest, Signature
from tritonsync.format.signing import Signer, TrustPolicy


def _pem(private: Ed25519PrivateKey, encryption: KeySerializationEncryption | None = None) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def _public_pem(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
SIGNER = Signer.from_pem(_pem(KEY))
POLICY = TrustPolicy.from_pems([_public_pem(OTHER), _public_pem(KEY)])


def _manifest(bundle: Bundle) -> Manifest:
    return manifests.describe(bundle, created="2026-11-23T03:44:55Z", environment=Environment(torch="2.13"), pack=None)


MANIFEST = _manifest(Bundle("fx_graph", "key"))


@given(bundles)
def test_a_signed_manifest_is_trusted_after_the_way_through_the_bucket(bundle: Bundle) -> None:
    """What was signed still holds after it was written and read, and has another bundle id than the unsigned one."""
    signed = SIGNER.sign(_manifest(bundle))
    read = manifests.decode(manifests.encode(signed), "m")
    POLICY.check(read, "m")
    assert read.bundle_id != _manifest(bundle).bundle_id


@pytest.mark.parametrize(
    "change",
    [
        {"key": "other"},
        {"generation": 1},
        {"guards": "s0 > 1"},
        {"created": "2026-11-23T03:44:56Z"},
        {"environment": Environment(torch="2.14")},
        {"compile_seconds": 1.0},
    ],
)
def test_every_field_is_covered(change: dict[str, object]) -> None:
    """A manifest that was changed after it was signed is refused."""
    with pytest.raises(TrustError, match="wrong"):
        POLICY.check(msgspec.structs.replace(SIGNER.sign(MANIFEST), **change), "bundles/x/manifest.json")


def test_unsigned_and_unknown_signatures_are_refused() -> None:
    """With keys configured, everything that none of them signed is refused, and the message names the object."""
    with pytest.raises(TrustError, match=r"bundles/x/manifest\.json: not signed"):
        POLICY.check(MANIFEST, "bundles/x/manifest.json")
    stranger = Signer(Ed25519PrivateKey.generate())
    with pytest.raises(TrustError, match=f"{stranger.key_id}.*not trusted"):
        POLICY.check(stranger.sign(MANIFEST), "m")


def test_a_stranger_cannot_use_a_trusted_keys_name() -> None:
    """The id of a key is only a hint which key to try."""
    forged = Signer(Ed25519PrivateKey.generate()).sign(MANIFEST).signature
    assert forged is not None
    for ed25519 in (forged.ed25519, base64.b64encode(bytes(64)).decode(), "not base64", ""):
        signature = Signature(key_id=SIGNER.key_id, ed25519=ed25519)
        with pytest.raises(TrustError, match="wrong"):
            POLICY.check(msgspec.structs.replace(MANIFEST, signature=signature), "m")


def test_no_keys_trust_everything() -> None:
    """Without a configured key, signatures are not looked at."""
    TrustPolicy().check(MANIFEST, "m")
    TrustPolicy.from_pems([]).check(Signer(Ed25519PrivateKey.generate()).sign(MANIFEST), "m")


def test_a_policy_can_include_the_own_signer() -> None:
    """A writer that signs takes its own signature for good, and no longer the unsigned."""
    own = TrustPolicy().including(SIGNER)
    own.check(SIGNER.sign(MANIFEST), "m")
    with pytest.raises(TrustError):
        own.check(MANIFEST, "m")
    assert POLICY.including(SIGNER).key_ids == POLICY.key_ids


def test_signing_again_replaces_the_signature() -> None:
    """A signature does not cover another signature."""
    assert SIGNER.sign(Signer(OTHER).sign(MANIFEST)) == SIGNER.sign(MANIFEST)


def test_wrong_keys_are_named() -> None:
    """A key that cannot be used is a settings error that says how to make one."""
    elliptic = generate_private_key(SECP256R1())
    elliptic_pem = elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = _pem(KEY, BestAvailableEncryption(b"password"))
    for pem in (b"", b"nonsense", _public_pem(KEY), elliptic_pem, locked):
        with pytest.raises(SettingsError, match=r"sign\.pem .*openssl genpkey -algorithm ed25519"):
            Signer.from_pem(pem, "sign.pem")
    elliptic_public = elliptic.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for pem in (b"", b"nonsense", _pem(KEY), elliptic_public):
        with pytest.raises(SettingsError, match=r"trusted key 2 .*openssl pkey"):
            TrustPolicy.from_pems([_public_pem(KEY), pem])


def test_key_ids_are_fixed() -> None:
    """A key's id follows from its public bytes alone."""
    known = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert Signer(known).key_id == "139e3940e64b5491"
