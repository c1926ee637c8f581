# ruff: noqa: T201
"""Values that an H200 made, moved through our places in torch on a machine without a GPU; nothing is unpickled.

`python h200.py write`: give every value of the cache folder to torch's own writing function, as a compile would.
`python h200.py read <kind>/<key> ...`: bring these into the cache folder, as a lookup would.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch  # noqa: F401 - loads the plugin
from torch._functorch._aot_autograd.autograd_cache import AOTAutogradCache
from torch._inductor.codecache import FxGraphCache

from tritonsync.session import session

CACHE = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])


def write() -> None:
    names = []
    for kind, pattern, cache in (
        ("fx_graph", "fxgraph/*/*/*", FxGraphCache),
        ("aot_autograd", "aotautograd/*/*", AOTAutogradCache),
    ):
        for path in sorted(CACHE.glob(pattern)):
            cache._write_to_local_cache(path.parent.name, path.read_bytes())
            names.append(f"{kind}/{path.parent.name}")
    print(json.dumps(names), flush=True)


def read(*names: str) -> None:
    now = session.current()
    assert now is not None
    places = [name.split("/") for name in names]
    print(json.dumps([len(now.look_up(kind, key).more()) for kind, key in places]), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
