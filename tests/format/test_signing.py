import base64
import time

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
from tritonsync.errors import ManifestError, NewerFormatError, SettingsError, TrustError
from tritonsync.format import manifest as manifests
from tritonsync.format.bundle import Bundle
from tritonsync.format.layout import BundlePlace
from tritonsync.format.manifest import Environment, FileEntry, Manifest, Signature
from tritonsync.format.signing import Signer, TrustPolicy, make_pems


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
    assert POLICY.accept(manifests.encode(signed), signed.place) == signed
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


# ---- in this order: signature, then everything else ------------------------------------------------------------------

PLACE = BundlePlace("fx_graph", "key", "default", "0" * 32)


def _large(megabytes: int) -> bytes:
    entry = FileEntry(name="f" * 200, size=1, sha256="0" * 64)
    many = (entry,) * (megabytes * 1_000_000 // 305)
    return manifests.encode(msgspec.structs.replace(MANIFEST, payloads=many))


@pytest.mark.parametrize(("megabytes", "count", "seconds"), [(8, 64, 6.0), (16, 1, 1.5)])
def test_unsigned_manifests_cost_next_to_nothing(megabytes: int, count: int, seconds: float) -> None:
    """Whoever may write into the bucket, and has no key, cannot keep readers busy (0.7 s and 0.1 s; it was 72 s, 5 s).

    The limits leave room for a slow machine.
    """
    data = _large(megabytes)
    started = time.process_time()
    for _ in range(count):
        with pytest.raises(TrustError, match="not signed"):
            POLICY.accept(data, PLACE)
    assert time.process_time() - started < seconds


def test_a_wrong_signature_is_found_before_anything_is_validated() -> None:
    """A manifest that is wrong in every way, and names a trusted key, is refused for its signature."""
    wrong = msgspec.structs.replace(SIGNER.sign(MANIFEST), kind="nonsense", key="", variant="x", generation=99)
    with pytest.raises(TrustError, match="wrong"):
        POLICY.accept(manifests.encode(wrong), PLACE)
    with pytest.raises(TrustError, match="not signed"):
        POLICY.accept(b'{"format":1}', PLACE)


def test_what_is_signed_is_validated_all_the_same() -> None:
    """A trusted key vouches for the bytes, not for their sense, nor for the place they were copied to."""
    for change in ({"kind": "nonsense"}, {"generation": 99}, {"created": "now"}):
        signed = SIGNER.sign(msgspec.structs.replace(MANIFEST, **change))
        with pytest.raises(ManifestError):
            POLICY.accept(manifests.encode(signed), PLACE)
    signed = SIGNER.sign(MANIFEST)
    with pytest.raises(ManifestError, match="another bundle"):
        POLICY.accept(manifests.encode(signed), PLACE)


def test_newer_formats_are_told_apart_before_signatures() -> None:
    """Of what they cover there, this version knows nothing; the way out is to upgrade."""
    for data in (b'{"format":2,"hello":"world"}', b'{"format":7}'):
        with pytest.raises(NewerFormatError, match=r"manifest\.json: format \d is newer"):
            POLICY.accept(data, PLACE)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format":"1"}', b"\xff", b"[" * 100_000, b'{"format":1'])
def test_what_is_no_manifest_is_no_manifest(data: bytes) -> None:
    """With keys as without."""
    for policy in (POLICY, TrustPolicy()):
        with pytest.raises(ManifestError, match=r"manifest\.json: not a manifest"):
            policy.accept(data, PLACE)


def test_a_signature_cannot_be_moved_doubled_or_hidden_in_a_text() -> None:
    """Wherever else the very bytes of a valid signature stand, the manifest is refused."""
    signed = SIGNER.sign(MANIFEST)
    good, plain = manifests.encode(signed), manifests.encode(MANIFEST)
    assert POLICY.accept(good, signed.place) == signed
    start = next(at for at in range(len(good)) if good[at:].startswith(b',"signature":'))
    cut = good[start : start + len(good) - len(plain)]
    assert good == plain[:start] + cut + plain[start:]
    forged = [plain[:at] + cut + plain[at:] for at in range(len(plain) + 1) if at != start]
    forged += [good[:start] + cut + good[start:], good + cut, good.replace(b'"guards":""', b'"guards":""' + cut)]
    forged += [good.replace(b",", b", ", 1), good + b" ", good.replace(b'"variant"', b'"value":null,"variant"')]
    for data in forged:
        with pytest.raises((TrustError, ManifestError)):
            POLICY.accept(data, signed.place)


def test_texts_that_look_like_a_signature_are_texts() -> None:
    """Guards and inline payloads may hold anything."""
    text = manifests.encode(SIGNER.sign(MANIFEST)).decode()
    signed = SIGNER.sign(_manifest(Bundle("fx_graph", "key", guards=text)))
    assert POLICY.accept(manifests.encode(signed), signed.place) == signed
    unsigned = _manifest(Bundle("fx_graph", "key", guards=text))
    with pytest.raises(TrustError, match="not signed"):
        POLICY.accept(manifests.encode(unsigned), unsigned.place)


#: Made with the version before namespaces, by the key of 32 zero bytes.
KNOWN = "3GG50Y1IWOo5InQE87RhQ6PcbtW9F3KtAi1vvFAj4KSDmlQv8cwrFYfcMeY9Cm9ZYdxjyVpUA5h5y1xfv7zyCw=="

# ---- namespaces ------------------------------------------------------------------------------------------------------


def test_without_a_namespace_signatures_are_as_they_always_were() -> None:
    """Byte for byte: what was published before there were namespaces stays trusted."""
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    signed = signer.sign(MANIFEST)
    assert signed.signature == Signature(key_id="139e3940e64b5491", ed25519=KNOWN)


@pytest.mark.parametrize(("here", "there"), [("prod", "test"), ("", "test"), ("prod", "")])
def test_a_signature_counts_in_its_own_namespace_alone(here: str, there: str) -> None:
    """A signed bundle that was copied to another bucket is refused there, renamed or not."""
    signer = Signer(KEY, there)
    signed = signer.sign(MANIFEST)
    assert TrustPolicy.from_pems([_public_pem(KEY)], there).accept(manifests.encode(signed), signed.place) == signed
    policy = TrustPolicy.from_pems([_public_pem(KEY)], here)
    with pytest.raises(TrustError, match=rf"manifest\.json: signed by key '{signer.key_id}'.*not trusted here"):
        policy.accept(manifests.encode(signed), signed.place)
    assert signed.signature is not None
    renamed = Signature(key_id=Signer(KEY, here).key_id, ed25519=signed.signature.ed25519)
    moved = msgspec.structs.replace(signed, signature=renamed)
    with pytest.raises(TrustError, match="wrong"):
        policy.accept(manifests.encode(moved), moved.place)
    with pytest.raises(TrustError):
        policy.check(moved, "m")


def test_bundles_of_two_namespaces_stand_side_by_side() -> None:
    """They have different names, so that a change of the namespace can publish everything again."""
    assert len({Signer(KEY, name).sign(MANIFEST).bundle_id for name in ("", "a", "b", "\udcff")}) == 4


def test_a_policy_that_includes_a_signer_keeps_its_namespace() -> None:
    """A writer takes for published what counts in its namespace."""
    for policy in (TrustPolicy(namespace="a"), TrustPolicy(), TrustPolicy.from_pems([_public_pem(OTHER)], "a")):
        own = policy.including(Signer(KEY, "a"))
        own.check(Signer(KEY, "a").sign(MANIFEST), "m")
        with pytest.raises(TrustError):
            own.check(SIGNER.sign(MANIFEST), "m")


def test_made_keys_sign_and_verify() -> None:
    """What `keygen` writes is what the settings take."""
    private, public = make_pems()
    TrustPolicy.from_pems([public]).check(Signer.from_pem(private).sign(MANIFEST), "m")
