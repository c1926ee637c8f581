"""How commands fail: in children, where stdout, stderr and the exit code are those that a person or a script sees."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Ran, Run
from tests.faultproxy import Exchange, Fault, FaultProxy, answer, hang
from tests.kernels import CompiledKernels
from tests.raw import RawBucket
from tests.servers import Place


def assert_one_line(ran: Ran, *parts: str) -> None:
    """Exit code 1, nothing on stdout, and one line on stderr that holds these parts."""
    assert (ran.code, ran.out) == (1, ""), ran
    assert_said(ran, *parts)


def assert_said(ran: Ran, *parts: str) -> None:
    """One line on stderr that holds these parts."""
    [line] = ran.err.splitlines()
    assert line.startswith("tritonsync: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("nosuch://bucket/prefix", "nosuch"),
        ("s3:bucket/prefix", "s3://"),
        ("s3://", "names no bucket"),
        ("https://example.com/bucket", "cannot be written"),
    ],
)
def test_a_wrong_url(url: str, part: str, child: Run) -> None:
    """It is one line that says what would be right."""
    assert_one_line(child("ls", "--url", url), part)


@pytest.mark.parametrize(("url", "package", "extra"), [("s3://b/p", "s3fs", "[s3]"), ("gs://b/p", "gcsfs", "[gcs]")])
def test_a_missing_extra(url: str, package: str, extra: str, child: Run) -> None:
    """It is one line with the command that installs it."""
    ran = child("ls", "--url", url, before=f"import sys; sys.modules[{package!r}] = None")
    assert_one_line(ran, f"pip install 'tritonsync{extra}'")


@pytest.mark.parametrize(("url", "package"), [("az://c/p", "adlfs"), ("hf://datasets/p", "huggingface_hub")])
def test_a_filesystem_of_others_that_is_missing(url: str, package: str, child: Run) -> None:
    """The message names its package, which no extra of ours brings."""
    ran = child("ls", "--url", url, before=f"import sys; sys.modules[{package!r}] = None")
    assert_one_line(ran, f"pip install {package}")


def test_a_missing_bucket(child: Run, s3_place: Place) -> None:
    """It is one line that names the bucket."""
    ran = child("ls", "--url", "s3://there-is-none-of-this-name/prefix", **s3_place.environment)
    assert_one_line(ran, "there-is-none-of-this-name")


def test_no_credentials(child: Run, s3_place: Place, tmp_path: Path) -> None:
    """It is one line that says where they would be looked for."""
    nothing = str(tmp_path / "nothing")
    variables = {
        "AWS_SHARED_CREDENTIALS_FILE": nothing,
        "AWS_CONFIG_FILE": nothing,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    ran = child("ls", "--url", s3_place.url, AWS_ENDPOINT_URL=s3_place.endpoint, **variables)
    assert_one_line(ran, "AWS_ACCESS_KEY_ID")


def test_a_server_that_does_not_answer(child: Run, s3_place: Place) -> None:
    """It is one line after the time that was given."""
    with FaultProxy(s3_place.endpoint) as proxy:
        proxy.fail(hang(), times=1000)
        environ = {**s3_place.environment, "AWS_ENDPOINT_URL": proxy.url}
        assert_one_line(child("ls", "--url", s3_place.url, "--timeout", "1.5", **environ), s3_place.url)


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("ls", "--no-such-option"),
        ("ls",),
        ("pull", "--url", "/nowhere"),
        ("show", "--url", "/nowhere"),
        ("ls", "--url", "/nowhere", "--storage-options", "[1]"),
        ("ls", "--url", "/nowhere", "--timeout", "soon"),
        ("ls", "--url", "/nowhere", "--timeout", "inf"),
        ("demo", "--kernels", "0"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], child: Run) -> None:
    """The exit code is 2, and one line says what is wrong and where to look."""
    ran = child(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert_said(ran, "--help`")


@pytest.mark.parametrize("variable", ["TRITONSYNC_MODE", "TRITONSYNC_STORAGE_OPTIONS", "TRITONSYNC_BUDGET_S"])
def test_a_wrong_variable(variable: str, child: Run) -> None:
    """It is one line that names the variable."""
    assert_one_line(child("ls", "--url", "/nowhere", **{variable: "?"}), variable)


def test_a_workload_name_that_is_too_long(child: Run, tmp_path: Path, h200_vit: Path) -> None:
    """It is one line before anything is sent."""
    arguments = ("--workload", "w" * 1025, "--inductor-dir", h200_vit)
    assert_one_line(child("push", "--url", tmp_path / "bucket", *arguments), "1025 characters")
    assert not (tmp_path / "bucket").exists()


def test_warnings_are_lines_on_stderr(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """What the program logs is said once a cause, and stdout stays one JSON object."""
    name = vit.only("bundles/fx_graph/.*/default/.*pack")
    vit.damage(name, "flip")
    vit.delete(vit.only("start.tar$"))  # holds a good copy
    ran = run("pull", "--url", vit.url, "--workload", "vit", "--inductor-dir", tmp_path / "here", "--json")
    assert (ran.code, ran.json["kernels_emitted"]) == (0, 15)
    lines = [line for line in ran.err.splitlines() if name in line]
    assert len(lines) == 1
    assert lines[0].startswith("tritonsync: ")


def test_starting_imports_little(child: Run) -> None:
    """Neither `version` nor `--help` waits for a filesystem, a terminal library, torch or Triton."""
    report = """
import atexit, sys
def tell():
    heavy = {"fsspec", "s3fs", "gcsfs", "torch", "triton", "rich", "zstandard", "msgspec"} & set(sys.modules)
    print(sorted(heavy), file=sys.stderr)
atexit.register(tell)
"""
    for arguments in (("version",), ("--help",), ("pull", "--help")):
        ran = child(*arguments, before=report)
        assert ran.code == 0
        assert ran.err == "[]\n"


def test_version(run: Run, child: Run) -> None:
    """It is that of the package, as text and as JSON."""
    import tritonsync

    assert run("version").out == f"tritonsync {tritonsync.__version__}\n"
    assert run("version", "--json").json == {"version": tritonsync.__version__}


def test_an_interrupted_push_ends_at_once(s3_place: Place, h200_vit: Path) -> None:
    """Ctrl-C ends it with 130 and one line, although requests are waiting for an answer."""
    with FaultProxy(s3_place.endpoint) as proxy:
        proxy.fail(hang(), times=1000, path="pack.tar.zst")
        environ = {**os.environ, **s3_place.environment, "AWS_ENDPOINT_URL": proxy.url}
        # Shells have what they start in the background ignore Ctrl-C, and children inherit that.
        program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        program += "from tritonsync.cli import main; main()"
        command = [sys.executable, "-c", program, "push", "--url", s3_place.url, "--workload", "vit"]
        with subprocess.Popen(
            [*command, "--inductor-dir", str(h200_vit)],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as push:
            while not proxy.count("PUT", "pack.tar.zst"):
                assert push.poll() is None
                time.sleep(0.02)
            push.send_signal(signal.SIGINT)
            out, err = push.communicate(timeout=60)  # a request may take 300 seconds
    assert (push.returncode, out) == (130, "")
    [line] = err.splitlines()
    assert line.startswith("tritonsync: interrupted")


def test_storage_options_come_from_the_option_and_the_variable(child: Run, s3_place: Place) -> None:
    """Both reach the filesystem; the option wins."""
    options = json.dumps(dict(s3_place.options))
    assert child("ls", "--url", s3_place.url, "--storage-options", options).code == 0
    assert child("ls", "--url", s3_place.url, TRITONSYNC_STORAGE_OPTIONS=options).code == 0
    wrong = json.dumps({"no_such_option_anywhere": 1, "endpoint_url": "nonsense"})
    both = child("ls", "--url", s3_place.url, "--storage-options", options, TRITONSYNC_STORAGE_OPTIONS=wrong)
    assert both.code == 0


@pytest.mark.parametrize("option", ["--inductor-dir", "--triton-dir", "--url"])
@pytest.mark.parametrize("path", ["~nobody-of-that-name/cache", "x" * 300])
def test_a_path_that_cannot_be(option: str, path: str, child: Run, tmp_path: Path) -> None:
    """It is one line, whichever option it is given to."""
    arguments = {"--url": str(tmp_path / "bucket"), "--inductor-dir": str(tmp_path), option: path}
    ran = child("push", "--workload", "w", *(part for pair in arguments.items() for part in pair))
    assert ran.code == 1
    assert ran.err.startswith("tritonsync: ")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-"])
def test_streams_may_be_closed(closed: str, h200_vit: Path, tmp_path: Path) -> None:
    """Services are started without."""
    command = [sys.executable, "-m", "tritonsync", "push", "--workload", "w", "--url", str(tmp_path / "bucket")]
    command += ["--inductor-dir", str(h200_vit)]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "bash", *command], check=False, timeout=60, capture_output=True
    )
    assert done.returncode == 0
    assert len(RawBucket(str(tmp_path / "bucket")).names("manifest.json$")) == 4


def test_a_name_that_the_terminal_cannot_show(h200_vit: Path, tmp_path: Path) -> None:
    """It is escaped, after the work as before."""
    command = [
        sys.executable,
        "-m",
        "tritonsync",
        "push",
        "--workload",
        "My ☃ Model",
        "--url",
        str(tmp_path / "bucket"),
    ]
    command += ["--inductor-dir", str(h200_vit)]
    environ = {**os.environ, "PYTHONIOENCODING": "latin1"}
    done = subprocess.run(command, env=environ, check=False, timeout=60, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"pushed My \\u2603 Model" in done.stdout


def test_show_finds_a_workload_by_the_name_it_was_given(run: Run, h200_vit: Path, tmp_path: Path) -> None:
    """Whatever its letters."""
    url = str(tmp_path / "bucket")
    assert run("push", "--url", url, "--workload", "My ☃ Model", "--inductor-dir", h200_vit).code == 0
    assert run("show", "My ☃ Model", "--url", url).code == 0
    assert run("verify", "My ☃ Model", "--url", url).code == 0


def refuse_while_others_wait(proxy: FaultProxy) -> Fault:
    """Answer 403 once there is another request that has no answer."""

    async def fault(exchange: Exchange) -> bool:
        for _ in range(400):
            if proxy.at_once > 1:
                break
            await asyncio.sleep(0.05)
        return await answer(403)(exchange)

    return fault


@pytest.mark.parametrize(("command", "path"), [("push", "bundles/"), ("pull", "gra"), ("verify", "manifest.json")])
def test_a_command_ends_with_its_error(command: str, path: str, s3_place: Place, run: Run, h200_vit: Path) -> None:
    """Its process too, although other requests hang: nothing waits for the threads that do."""
    # "gra" is in the names of both kinds of graphs, and not in that of the workload, which is asked for before.
    arguments = ["--url", s3_place.url, "--inductor-dir", str(h200_vit), "--workload", "vit"]
    if command != "push":
        options = json.dumps(dict(s3_place.options))
        assert run("push", *arguments, "--storage-options", options).code == 0
    with FaultProxy(s3_place.endpoint) as proxy:
        proxy.fail(refuse_while_others_wait(proxy), path=path)
        proxy.fail(hang(), times=1000, path=path)
        environ = {**os.environ, **s3_place.environment, "AWS_ENDPOINT_URL": proxy.url}
        given = arguments[:2] if command == "verify" else arguments
        line = [sys.executable, "-m", "tritonsync", command, *given]
        with subprocess.Popen(line, env=environ, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                error = process.stderr.readline()
                process.wait(20)  # a silent request is given up after 60 seconds
            finally:
                process.kill()
    assert "access denied" in error
    assert process.returncode == 1
    assert proxy.count(path=path) > 1


def test_a_person_sees_why_the_bucket_is_asked_again(s3_place: Place, tmp_path: Path) -> None:
    """On a terminal each repetition is a line with the server's answer; elsewhere it is not worth one."""
    with FaultProxy(s3_place.endpoint) as proxy:
        environ = {**os.environ, **s3_place.environment, "AWS_ENDPOINT_URL": proxy.url}
        command = [sys.executable, "-m", "tritonsync", "ls", "--url", s3_place.url]
        ours, theirs = pty.openpty()
        for stderr in (theirs, subprocess.PIPE):
            proxy.fail(answer(503), times=1)
            done = subprocess.run(command, env=environ, stderr=stderr, stdout=subprocess.PIPE, check=False, timeout=60)
            assert done.returncode == 0
        os.close(theirs)
        shown = os.read(ours, 10_000).decode()
        os.close(ours)
    assert "HTTP 503" in shown
    assert "trying again in" in shown
    assert done.stderr == b""


@pytest.mark.parametrize("variable", ["TRITONSYNC_URL", "TRITONSYNC_SIGNING_KEY", "TRITONSYNC_TRUSTED_KEYS"])
def test_the_home_of_nobody_in_a_variable(variable: str, run: Run, h200_vit: Path, tmp_path: Path) -> None:
    """It is an error that names the variable."""
    variables = {"TRITONSYNC_URL": str(tmp_path / "bucket"), variable: "~nobody-of-that-name/x"}
    ran = run("push", "--workload", "w", "--inductor-dir", h200_vit, **variables)
    assert_one_line(ran, variable, "~nobody-of-that-name")
    assert not (tmp_path / "bucket").exists()


def test_one_silent_answer_is_asked_for_again(child: Run, s3_place: Place) -> None:
    """It does not take all of the time that a request has."""
    with FaultProxy(s3_place.endpoint) as proxy:
        proxy.fail(hang())
        variables = {**s3_place.environment, "AWS_ENDPOINT_URL": proxy.url}
        ran = child("ls", "--url", s3_place.url, "--timeout", "15", **variables)
    assert (ran.code, ran.err) == (0, "")


def test_a_cache_whose_path_is_no_text(child: Run, compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """It is refused in one line, before the bucket is touched."""
    (tmp_path / "caf\udce9").mkdir()
    folders = ("--inductor-dir", tmp_path / "caf\udce9", "--triton-dir", compiled_kernels.directory)
    ran = child("push", "--workload", "w", "--url", tmp_path / "bucket", *folders)
    assert_one_line(ran, "not UTF-8")
    assert not (tmp_path / "bucket").exists()


def test_a_working_folder_that_is_gone(child: Run, tmp_path: Path) -> None:
    """It is one line, although a request is sent before the arguments are parsed."""
    (tmp_path / "gone").mkdir()
    before = f"import os; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir({str(tmp_path / 'gone')!r})"
    assert_one_line(child("ls", "--url", "bucket", before=before), "FileNotFoundError")


FULL = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), {})"


@pytest.mark.parametrize("url", ["nosuch://bucket/prefix", "folder"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_output_that_is_full(url: str, options: tuple[str, ...], child: Run, tmp_path: Path) -> None:
    """What was to be said is said once, and Python adds neither a traceback nor an exit code of its own."""
    (tmp_path / "folder").mkdir()
    place = url if "://" in url else tmp_path / url
    # Buffered, as it is where nobody has set the variable.
    ran = child("ls", "--url", place, *options, before=FULL.format(1), PYTHONUNBUFFERED="")
    assert_one_line(ran, "nosuch" if "://" in url else "No space left on device")
    ran = child("ls", "--url", place, *options, before=FULL.format(2), PYTHONUNBUFFERED="")
    assert (ran.code, ran.err) == ("://" in url, "")
    assert bool(ran.out) == ("://" not in url or "--json" in options)


BUG = "import tritonsync.settings as s; s.Settings.from_env = lambda **_: {}['what nobody thought of']"


def test_a_bug_is_one_line(child: Run) -> None:
    """And an object for a script; where it is in the code is said if that is asked for."""
    ran = child("du", "--url", "/nowhere", before=BUG)
    assert_one_line(ran, "KeyError: 'what nobody thought of'; this is a bug", "TRITONSYNC_LOG=debug")
    ran = child("ls", "--url", "/nowhere", "--json", before=BUG)
    assert (ran.code, ran.json["error"]["kind"]) == (1, "KeyError")
    assert_said(ran, "this is a bug")
    ran = child("du", "--url", "/nowhere", before=BUG, TRITONSYNC_LOG="debug")
    assert ran.code == 1
    assert "\nTraceback (most recent call last):\n  File " in ran.err
    assert "this is a bug" in ran.err.splitlines()[-1]
