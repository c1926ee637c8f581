"""Values of the format as hypothesis makes them."""

import string

from hypothesis import strategies as st

from tritonsync.format.bundle import Bundle, Payload
from tritonsync.format.kernel import Kernel, KernelFile

NAME_CHARACTERS = string.ascii_letters + string.digits + "_.-"

#: Mostly short names, some as long as they may be.
names = st.one_of(
    st.text(NAME_CHARACTERS, min_size=1, max_size=12),
    st.text(NAME_CHARACTERS, min_size=90, max_size=255),
).filter(lambda name: name not in (".", ".."))

contents = st.binary(max_size=600)


def unique_files(max_size: int = 4) -> st.SearchStrategy[tuple[KernelFile, ...]]:
    files = st.dictionaries(names, contents, max_size=max_size)
    return files.map(lambda items: tuple(KernelFile(name, data) for name, data in items.items()))


kernels = st.builds(Kernel, names, st.none() | st.integers(0, 7), unique_files())

payloads = st.dictionaries(names, contents, max_size=3).map(
    lambda items: tuple(Payload(name, data) for name, data in items.items())
)

#: What UTF-8 can hold: everything but halves of surrogate pairs.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

bundles = st.builds(
    Bundle,
    kind=st.sampled_from(["fx_graph", "aot_autograd", "triton"]),
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    variant=st.just("default") | st.text("0123456789abcdef", min_size=16, max_size=16),
    kernels=st.lists(kernels, max_size=3).map(tuple),
    payloads=payloads,
    guards=texts,
    requires=st.none() | st.just("x86_64:avx2"),
    compile_seconds=st.floats(0, 1e6),
)
