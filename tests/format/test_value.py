import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.conftest import Dynamic, torch_bundle
from tests.format.strategies import kernels as some_kernels
from tritonsync.errors import ValueSplitError
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.format.value import join, split


def _check(value: bytes) -> tuple[bytes, tuple[Kernel, ...]]:
    parts = split(value)
    assert join(parts.skeleton, parts.kernels) == value
    assert join(parts.skeleton, parts.kernels[::-1]) == value
    assert parts == split(value)
    return parts.skeleton, parts.kernels


def test_a_real_value_is_split_without_loss(vit_fx: bytes, vit_kernels: dict[str, Kernel]) -> None:
    """The kernels of a real H200 graph are cut out whole; what is left holds none of their bytes."""
    skeleton, kernels = _check(vit_fx)
    assert {kernel.hash: kernel for kernel in kernels} == vit_kernels
    cut = sum(kernel.size for kernel in kernels)
    assert len(vit_fx) - cut < len(skeleton) < len(vit_fx) - cut + 20_000
    for kernel in kernels:
        assert not any(file.payload in skeleton for file in kernel.files if file.name.endswith(".cubin"))


def test_values_without_kernels_become_skeletons(vit_aot: bytes, dynamic: dict[int, Dynamic]) -> None:
    """AOTAutograd values that hold no graph, and CPU graphs with an empty bundle, have nothing to cut out."""
    for value in (vit_aot, *(part for both in dynamic.values() for part in (both.fx, both.aot))):
        skeleton, kernels = _check(value)
        assert kernels == ()
        assert skeleton.endswith(value)


@pytest.mark.slow
def test_both_bundles_of_a_bundled_aot_value_are_split(bundled_aot: bytes, triton_kernels: list[Kernel]) -> None:
    """Torch gets back what it wrote: a value with forward and backward, whose bundles share a kernel."""
    skeleton, kernels = _check(bundled_aot)
    assert sorted(kernels, key=lambda kernel: kernel.hash) == triton_kernels
    result = pickle.loads(join(skeleton, kernels))
    assert result.compiled_fw.result._triton_bundle == torch_bundle(triton_kernels[:2])
    assert result.compiled_bw.result._triton_bundle == torch_bundle(triton_kernels[1:])


def test_torch_unpickles_what_was_joined(dynamic: dict[int, Dynamic]) -> None:
    """A real CPU graph unpickles in torch after split and join as it did before."""
    value = dynamic[50].fx
    parts = split(value)
    graph, original = pickle.loads(join(parts.skeleton, parts.kernels)), pickle.loads(value)
    assert type(graph).__name__ == "CompiledFxGraph"
    assert graph.source_code == original.source_code
    assert graph.guards_expr == original.guards_expr == "2 <= L['t0'] and L['t0'] <= 100"
    assert graph._triton_bundle == original._triton_bundle == torch_bundle([])


def _pickled(kernels: list[Kernel], protocol: int = 4, *, share: bool = False) -> bytes:
    bundle = torch_bundle(kernels)
    if share:
        for torchs, ours in zip(bundle.kernel_artifacts, kernels, strict=True):
            for artifact, file in zip(torchs.artifacts, ours.files, strict=True):
                object.__setattr__(artifact, "payload", file.payload)
    # A bundle is never alone in a value.
    return pickle.dumps([bundle, bytes(4096)], protocol)


@given(st.lists(some_kernels, max_size=4), st.sampled_from([4, 5]), st.booleans())
def test_every_bundle_of_torch_is_split_without_loss(kernels: list[Kernel], protocol: int, share: bool) -> None:
    """Kernels and files of any size and number, equal or not, shared inside the pickle or not."""
    value = _pickled(kernels, protocol, share=share)
    _, found = _check(value)
    assert set(found) == {kernel for kernel in kernels if kernel.files}


def test_two_kernels_with_one_content() -> None:
    """Equal files under two hashes or devices are cut once and come back everywhere."""
    files = (KernelFile("a.cubin", b"x" * 500), KernelFile("b.cubin", b"x" * 500))
    kernels = [Kernel("A", 0, files), Kernel("A", 1, files), Kernel("B", None, files)]
    for share in (False, True):
        _, found = _check(_pickled(kernels, share=share))
        assert list(found) == kernels


def _torch_kernel(**changes: Any) -> bytes:
    """A pickled bundle of torch with one kernel, in which something is not as usual."""
    from torch._inductor.triton_bundler import TritonBundle, TritonKernelArtifact, TritonKernelArtifacts

    filename, payload = changes.pop("filename", "a.cubin"), changes.pop("payload", b"x" * 100)
    artifact = TritonKernelArtifact(filename, payload)
    again = [artifact] * changes.pop("times", 1)
    fields = {"kernel_hash": "HASH", "device": 0, "artifacts": again, **changes}
    return pickle.dumps(TritonBundle([TritonKernelArtifacts(**fields)], []), 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"filename": "../a.cubin"},
        {"filename": "a b"},
        {"filename": "x" * 256},
        {"filename": None},
        {"filename": b"a.cubin"},
        {"payload": "text"},
        {"payload": None},
        {"kernel_hash": ".."},
        {"kernel_hash": None},
        {"device": "cuda:0"},
        {"device": -1},
        {"device": True},
        {"device": 2**70},
        {"artifacts": None},
        {"artifacts": ["a.cubin"]},
        {"times": 2},
        {"times": 100_000},
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    """A name or a form that a bucket cannot hold is a ValueSplitError: the caller stores the value whole."""
    with pytest.raises(ValueSplitError):
        split(_torch_kernel(**changes))
    assert split(_torch_kernel()).kernels[0].name == "a"


def test_bytes_that_a_pickle_names_often_do_not_blow_up() -> None:
    """A thousand files that are one bytes object inside the pickle are not copied out a thousand times."""
    from torch._inductor.triton_bundler import TritonBundle, TritonKernelArtifact, TritonKernelArtifacts

    payload = b"x" * 100_000
    files = [TritonKernelArtifact(f"{i}.cubin", payload) for i in range(1000)]
    value = pickle.dumps(TritonBundle([TritonKernelArtifacts("HASH", 0, files)], []), 4)
    assert len(value) < 200_000
    with pytest.raises(ValueSplitError):
        split(value)


def test_one_list_of_files_in_many_kernels_is_refused() -> None:
    """Kernels that share a list of files inside the pickle are not multiplied out, not even if the files are empty."""
    from torch._inductor.triton_bundler import TritonBundle, TritonKernelArtifact, TritonKernelArtifacts

    files = [TritonKernelArtifact(f"{i}.cubin", b"") for i in range(3)]
    kernels = [TritonKernelArtifacts(name, 0, files) for name in ("A", "B")]
    with pytest.raises(ValueSplitError, match="twice"):
        split(pickle.dumps(TritonBundle(kernels, []), 4))


PARTS = KernelFile("a.cubin", b"x" * 100), KernelFile("a.json", b"{}")
KERNEL = Kernel("HASH", 0, PARTS)


def test_missing_and_other_kernels_are_refused() -> None:
    """Without its kernels, or with a file of other bytes, a skeleton gives no value."""
    skeleton = split(_pickled([KERNEL])).skeleton
    with pytest.raises(ValueSplitError, match=r"a\.cubin.* missing"):
        join(skeleton, ())
    with pytest.raises(ValueSplitError, match="missing"):
        join(skeleton, [Kernel("HASH", 0, (KernelFile("a.cubin", b"y" * 100), PARTS[1]))])
    forged = Kernel("HASH", 0, (KernelFile("a.cubin", b"y" * 100), PARTS[1]))
    vars(forged)["content_id"] = KERNEL.content_id
    with pytest.raises(ValueSplitError, match="another value"):
        join(skeleton, [forged])
    renamed = Kernel("OTHER", 3, PARTS)
    assert join(skeleton, [renamed, Kernel("MORE", 0, ())]) == _pickled([KERNEL])


@given(st.data())
def test_flipped_and_cut_skeletons_are_refused(data: st.DataObject) -> None:
    """No byte of a skeleton can be changed or lost unseen."""
    skeleton = split(_pickled([KERNEL])).skeleton
    position = data.draw(st.integers(0, len(skeleton) - 1))
    flipped = bytearray(skeleton)
    flipped[position] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), skeleton[:position], skeleton + b"x"):
        with pytest.raises(ValueSplitError):
            join(damaged, [KERNEL])


def _header(change: Callable[[bytes], bytes]) -> bytes:
    magic, header, body = split(_pickled([KERNEL])).skeleton.split(b"\n", 2)
    return b"\n".join([magic, change(header), body])


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.replace(b"{", b"{ ", 1),
        lambda header: header.replace(b'"size":', b'"size":-'),
        lambda header: header.replace(b'"size":', b'"size":9'),
        lambda header: header.replace(b'"cuts":[[', b'"cuts":[[-'),
        lambda header: header.replace(b'"cuts":[[', b'"cuts":[[99999999999'),
        lambda header: header.replace(b'"cuts":[', b'"cuts":[[0,"x","y"],'),
        lambda header: header[:-1] + b',"more":1}',
        lambda header: header.replace(b'"sha256":"', b'"sha256":"\xff'),
        lambda header: b"{}",
        lambda header: b"",
        lambda header: b"[" * 10_000,
    ],
)
def test_other_headers_are_refused(change: Callable[[bytes], bytes]) -> None:
    """The header has one spelling, and cannot make more of the parts than they are."""
    with pytest.raises(ValueSplitError):
        join(_header(change), [KERNEL])


def test_a_file_cannot_be_used_twice() -> None:
    """A small skeleton cannot ask for one kernel a million times."""
    content = KERNEL.content_id
    cuts = ",".join([f'[0,"{content}","a.cubin"]'] * 1000)
    digest = hashlib.sha256(b"x" * 100_000).hexdigest()
    skeleton = f'tritonsync skeleton 1\n{{"size":100000,"sha256":"{digest}","cuts":[{cuts}]}}\n'
    with pytest.raises(ValueSplitError, match="twice"):
        join(skeleton.encode(), [KERNEL])


@pytest.mark.parametrize("skeleton", [b"", b"\n", b"tritonsync skeleton 1\n", b"tritonsync skeleton 2\n{}\n"])
def test_other_versions_are_refused(skeleton: bytes) -> None:
    """A skeleton says which version it is."""
    with pytest.raises(ValueSplitError, match="version 1"):
        join(skeleton, ())
