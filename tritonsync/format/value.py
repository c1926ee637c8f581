"""Values of torch's caches as bundles, and back.

A value is what `FxGraphCache` or `AOTAutogradCache` writes into its folder: a pickle that may hold Triton bundles. Its
bundle has the kernels cut out as kernels, and one payload: `<stem>.skeleton`, or, where the value does not split,
`<stem>.pickle`, the value itself. Values of other caches are always whole.
"""

from __future__ import annotations

import hashlib

from tritonsync.errors import ValueSplitError
from tritonsync.format import fxvalue
from tritonsync.format.bundle import DEFAULT_VARIANT, GRAPHS, Bundle, Digest, Payload
from tritonsync.format.facts import ValueFacts, read_facts
from tritonsync.format.variant import variant_of

__all__ = ["bundle_of_value", "facts_of_value", "has_value", "value_of_bundle"]

_STEMS = {"fx_graph": "fx_value", "aot_autograd": "aot_value", "pgo": "pgo_value", "dynamo": "dynamo_value"}


def bundle_of_value(
    kind: str,
    key: str,
    value: bytes,
    *,
    cpu: str | None = None,
    variant: str = DEFAULT_VARIANT,
    facts: ValueFacts | None = None,
) -> Bundle:
    """Make the bundle of one value.

    Args:
        kind: `fx_graph`, `aot_autograd`, `pgo` or `dynamo`.
        key: the value's key in that cache.
        value: its bytes.
        cpu: `machine:isa` of the host that made it; counts only for values that hold CPU code.
        variant: for kinds whose values torch does not guard.
        facts: what `read_facts` said of the value, where the caller knows already.
    """
    stem = _STEMS[kind]
    whole = Digest(size=len(value), sha256=hashlib.sha256(value).hexdigest())
    if kind not in GRAPHS:
        payload = Payload(f"{stem}.pickle", value)
        return Bundle(kind=kind, key=key, variant=variant, payloads=(payload,), value=whole)
    facts = facts or facts_of_value(value)
    variant, requires = variant_of(facts, cpu)
    try:
        split = fxvalue.split(value)
        kernels, payload = split.kernels, Payload(f"{stem}.skeleton", split.skeleton)
    except ValueSplitError:
        kernels, payload = (), Payload(f"{stem}.pickle", value)
    return Bundle(
        kind=kind,
        key=key,
        variant=variant,
        kernels=kernels,
        payloads=(payload,),
        guards=facts.guards,
        requires=requires,
        compile_seconds=facts.compile_seconds,
        value=whole,
    )


def facts_of_value(value: bytes) -> ValueFacts:
    """Read what a value says of itself; of one that cannot be read, assume that it holds code for this CPU only."""
    try:
        return read_facts(value)
    except ValueSplitError:
        return ValueFacts(uses_cpp=True)


def has_value(bundle: Bundle) -> bool:
    """Whether the bundle holds a value of torch, and not only kernels or a list."""
    return bundle.kind in _STEMS and bundle.value is not None


def value_of_bundle(bundle: Bundle) -> bytes:
    """Return the value, byte for byte as torch made it.

    Raises:
        ValueSplitError: the bundle does not make up the value that its manifest states.
    """
    stem = _STEMS[bundle.kind]
    value = bundle.payload(f"{stem}.pickle")
    if value is None:
        skeleton = bundle.payload(f"{stem}.skeleton")
        if skeleton is None:
            raise ValueSplitError(f"bundle {bundle.kind}/{bundle.key} holds no value")
        value = fxvalue.join(skeleton, bundle.kernels)
    if bundle.value != Digest(size=len(value), sha256=hashlib.sha256(value).hexdigest()):
        raise ValueSplitError(f"bundle {bundle.kind}/{bundle.key} does not make up the value that its manifest states")
    return value
