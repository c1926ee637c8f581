"""The artifact that vLLM makes of a whole model, with a stand-in for vLLM: carried where asked for, by a strict key."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.conftest import Done, Worker
from tests.raw import RawBucket

STANDIN = Path(__file__).with_name("standin")
ARTIFACT = "torch_compile_cache/torch_aot_compile/0123456789abcdef/rank_0_0/model"


def install(folder: Path, record: str = "vllm/__init__.py,sha256=one,80\n") -> Path:
    """Install the stand-in into a folder, as a wheel with this list of files."""
    shutil.copytree(STANDIN, folder)
    info = folder / "vllm-0.33.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n")
    (info / "RECORD").write_text(record)
    return folder


@pytest.fixture(scope="module")
def serve(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """Runs the stand-in, with its cache always at the same path, and empty."""
    server = dataclasses.replace(worker, program=Path(__file__).with_name("serving.py"))
    folder = tmp_path_factory.mktemp("vllm")
    site = install(folder / "site")

    def run(*arguments: object, program: str = "vllm", bucket: str = "bucket", **variables: str) -> Done:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        usual = {"TRITONSYNC_VLLM_ARTIFACT": "1", "VLLM_SITE": str(site), "TRITONSYNC_STRICT": "1"}
        process = server.start(program, folder / "cache", *arguments, bucket=folder / bucket, **(usual | variables))  # type: ignore[arg-type]
        done = server.end(*process)
        assert done.code == 0, done.err
        assert (folder / "cache" / ARTIFACT).is_file()
        done.out["artifacts"] = len(RawBucket(str(folder / bucket)).names("^bundles/dynamo/.*/manifest.json"))
        return done

    return run


def test_a_second_replica_does_not_trace_either(serve: Callable[..., Done]) -> None:
    """It loads the whole model; where that is not asked for, or where it was told something else, it traces."""
    first = serve()
    assert first.compiled
    assert (first.out["traced"], first.out["artifacts"]) == (1, 1)
    second = serve()
    assert (second.out["traced"], second.compiled, second.out["artifacts"]) == (0, [], 1)
    assert second.out["numbers"] == first.out["numbers"]
    for traced in (serve(TRITONSYNC_VLLM_ARTIFACT="0"), serve(5)):
        assert (traced.out["traced"], traced.compiled) == (1, [])
        assert traced.out["numbers"] == first.out["numbers"]


def test_an_artifact_without_compiled_pieces_is_not_published(serve: Callable[..., Done]) -> None:
    """Every later replica would run eagerly, and nobody would be told."""
    done = serve(program="vllm_eager", bucket="eager")
    assert (done.out["traced"], done.out["artifacts"]) == (1, 0)
    assert "it holds no compiled piece" in done.err


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in's configuration, installed in this process."""
    before = {name for name in sys.modules if name.partition(".")[0] == "vllm"}
    assert not before
    monkeypatch.syspath_prepend(str(install(tmp_path / "site")))
    yield importlib.import_module("vllm.config")
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


class Model:
    def __init__(self, vllm_config: object) -> None:
        self.vllm_config = vllm_config


def key_of(config: object, path: str = "/cache/rank_0_0/model") -> str:
    from tritonsync.plugins import vllm_key
    from tritonsync.session.session import Session
    from tritonsync.settings import Settings

    return vllm_key.key_of(Model(config), Path(path), Session(Settings(url="/nowhere", mode="read-only")))


def test_all_that_the_engine_was_told_is_part_of_the_key(standin: Any, tmp_path: Path) -> None:
    """Also what vLLM's own hash leaves out; not what differs between equal replicas."""
    pytest.importorskip("torch._inductor.config")
    importlib.import_module("torch._dynamo.config")
    importlib.import_module("torch._functorch.config")
    usual = key_of(standin.VllmConfig())
    replica = standin.VllmConfig(instance_id="7")
    replica.parallel_config.master_port += 1
    replica.model_config.hf_token = "secret"
    replica.compilation_config.local_cache_dir = "/elsewhere"
    assert key_of(replica) == usual

    changed = {"path": key_of(standin.VllmConfig(), "/other/rank_0_0/model")}
    for part, field, value in (
        ("speculative_config", "num_speculative_tokens", 3),
        ("model_config", "limit_mm_per_prompt", {"image": 2}),
        ("model_config", "hf_config", tmp_path),
        ("parallel_config", "rank", 1),
        ("parallel_config", "tensor_parallel_size", 2),
        ("compilation_config", "splitting_ops", []),
        ("compilation_config", "mode", 3),
    ):
        config = standin.VllmConfig()
        setattr(getattr(config, part), field, value)
        changed[field] = key_of(config)
    record = tmp_path / "site" / "vllm-0.33.0.dist-info" / "RECORD"
    record.write_text("vllm/__init__.py,sha256=two,80\n")
    os.utime(record.parent, (0, 0))
    changed["wheel"] = key_of(standin.VllmConfig())
    assert len({usual, *changed.values()}) == len(changed) + 1


def test_what_cannot_be_told_apart_has_no_key(standin: Any, tmp_path: Path) -> None:
    """An object of somebody else's, a configuration that holds itself, a vLLM whose files may change."""
    from tritonsync.plugins.digests import UnknownObjectError

    class Unknown:
        pass

    config = standin.VllmConfig()
    config.model_config.hf_config = Unknown()
    with pytest.raises(UnknownObjectError, match=r"vllm_config.model_config.hf_config is a .*Unknown"):
        key_of(config)
    config.model_config.hf_config = {}
    config.model_config.hf_config["again"] = config.model_config.hf_config
    with pytest.raises(UnknownObjectError, match="holds itself"):
        key_of(config)
    (tmp_path / "site" / "vllm-0.33.0.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}}')
    with pytest.raises(UnknownObjectError, match="without a list of its files"):
        key_of(standin.VllmConfig())


def spoil_nothing(_: Path) -> None:
    pass


def open_folder(path: Path) -> None:
    path.parent.chmod(0o777)


def link_to_a_copy(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("copy")))


@pytest.mark.parametrize(("spoil", "published"), [(spoil_nothing, 1), (open_folder, 0), (link_to_a_copy, 0)])
def test_an_artifact_that_others_could_have_written_is_not_published(
    spoil: Callable[[Path], None], published: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from a folder that everybody may write into, nor through a link: it would be signed."""
    from tritonsync.plugins import vllm
    from tritonsync.session import session
    from tritonsync.settings import Settings

    now = session.Session(Settings(url=str(tmp_path / "bucket"), inductor_dir=str(tmp_path), quiet=True))
    monkeypatch.setattr(session, "current", lambda: now)
    saved = tmp_path / "rank_0_0" / "model.17.tmp"
    saved.parent.mkdir()
    saved.write_bytes(b"artifact")
    spoil(saved)
    monkeypatch.setitem(vllm._missed, str(saved.with_name("model")), "ab" * 32)
    vllm._saved(str(saved), 1)
    now.stop()
    assert len(RawBucket(str(tmp_path / "bucket")).names("^bundles/dynamo/.*/manifest.json")) == published
