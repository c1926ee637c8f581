"""Two ranks on two GPUs, NCCL between them and one bucket: every job computes what eager does, later ones are warm.

    python tests/gpu/two_ranks.py [--gpus one|all] [--device cuda|cpu]

Needs two NVIDIA GPUs and torch; the bucket is a folder. By default each rank sees its own GPU only, as `cuda:0`, as on
two hosts with one GPU each: nothing else than the rank tells their graphs apart then. Six jobs of two new processes,
about a minute each. Prints a row for each program and kind of cache folder, writes $OUT/two_ranks.json, and ends with 1
if a number is not that of eager, or a later job did not find a graph of its own.

`inside` makes a DTensor from a mesh that is an input of its graph; torch 2.13 hashes that by its address, so there each
job compiles it again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

ROOT = Path(__file__).parents[2]
FOREIGN = ("AWS_", "TRITONSYNC_", "TORCHINDUCTOR_", "TRITON_", "TORCH_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
WORLD = 2
JOBS = 3
#: Programs that may compile again in a later job.
NEVER_WARM = ("inside",)


def rank_main(rank: int, device: str, store: Path) -> None:
    """Be one rank of one job: print what eager and the compiled programs computed."""
    import torch
    import torch.distributed as dist

    from tests.plugins.ranks import cases, compute_all, number

    if device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD
    )
    both = cases(device)
    eager = {name: number(compute()) for name, (compute, _) in both.items()}
    compiled = compute_all({name: compute for name, (_, compute) in both.items()})
    dist.barrier()
    print(json.dumps({"eager": eager, "compiled": compiled, "torch": torch.__version__}), flush=True)
    dist.destroy_process_group()


def run_job(given: argparse.Namespace, folder: Path, bucket: Path, caches: list[Path]) -> list[dict[str, Any]]:
    """Run one job of new processes; return what each rank printed, or `failed` with the end of its stderr."""
    store = Path(tempfile.mkdtemp(dir=folder)) / "store"
    processes = []
    for rank, cache in enumerate(caches):
        environ = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        path = filter(None, [str(folder / "site"), str(ROOT), os.environ.get("PYTHONPATH")])
        environ |= {
            "PYTHONPATH": os.pathsep.join(path),
            "TORCHINDUCTOR_CACHE_DIR": str(cache),
            "TORCHINDUCTOR_VEC_ISA_OK": "1",
            "TRITONSYNC_URL": str(bucket),
            "TRITONSYNC_STRICT": "1",
        }
        if given.device == "cuda" and given.gpus == "one":
            environ["CUDA_VISIBLE_DEVICES"] = str(rank)
        command = [sys.executable, __file__, "--device", given.device, "--rank", str(rank), "--store", str(store)]
        processes.append(
            subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    told: list[dict[str, Any]] = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=given.timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        lines = [line for line in out.splitlines() if line.startswith("{")]
        said = [line for line in err.splitlines() if line.startswith("tritonsync")]
        is_good = process.returncode == 0 and lines
        told.append(
            {**json.loads(lines[-1]), "said": said} if is_good else {"failed": f"{process.returncode}: {err[-2000:]}"}
        )
    return told


def is_right(name: str, rank: dict[str, Any]) -> bool:
    """Whether a rank computed compiled what it computed eagerly."""
    found, expected = rank["compiled"][name][0], rank["eager"][name]
    return bool(abs(found - expected) <= 1e-3 * max(1.0, abs(expected)))


def check(kind: str, jobs: list[list[dict[str, Any]]]) -> list[str]:
    """Print a row for each program; return what is not as it should be."""
    failed = [rank["failed"] for job in jobs for rank in job if "failed" in rank]
    if failed:
        return [f"{kind}: a rank failed: {failed[0]}"]
    wrong = []
    for name in jobs[0][0]["eager"]:
        row = f"{kind:<8}{name:<10}"
        for number, job in enumerate(jobs, 1):
            right, hits = all(is_right(name, rank) for rank in job), [rank["compiled"][name][1] for rank in job]
            row += f"{'right' if right else 'WRONG':>8} {'/'.join(map(str, hits)):>5}"
            if not right:
                wrong.append(
                    f"{kind}, {name}, job {number}: {[(r['compiled'][name][0], r['eager'][name]) for r in job]}"
                )
            if number > 1 and name not in NEVER_WARM and min(hits) == 0:
                wrong.append(f"{kind}, {name}, job {number}: compiled again, hits {hits}")
        print(row)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--gpus", choices=("one", "all"), default="one", help="which GPUs each rank sees")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds for each job")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is not None:
        rank_main(given.rank, given.device, given.store)
        return 0
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tritonsync-ranks-"))
    try:
        info = folder / "site" / "tritonsync-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tritonsync\nVersion: 0\n")
        (info / "entry_points.txt").write_text("[torch.backends]\ntritonsync = tritonsync.plugins.autoload:activate\n")
        jobs: dict[str, list[list[dict[str, Any]]]] = {"own": [], "shared": []}
        for number in range(JOBS):
            own = [folder / f"own-{number}-{rank}" for rank in range(WORLD)]
            jobs["own"].append(run_job(given, folder, folder / "bucket-own", own))
            # The second job finds the folder as the first one left it, the third one finds it empty.
            shared = folder / ("shared-new" if number == JOBS - 1 else "shared")
            jobs["shared"].append(run_job(given, folder, folder / "bucket-shared", [shared] * WORLD))
        print(f"torch {jobs['own'][0][0].get('torch')}, {given.device}, each rank sees {given.gpus}: AOT hits by rank")
        print(f"{'caches':<8}{'program':<10}" + "".join(f"{f'job {number}':>14}" for number in range(1, JOBS + 1)))
        wrong = [each for kind, found in jobs.items() for each in check(kind, found)]
        for kind, found in jobs.items():
            for rank, told in enumerate(found[-1]):
                print(f"{kind}, last job, rank {rank}: {' '.join(told.get('said', [])[-1:])}")
        seconds = round(time.monotonic() - began, 1)
        out = Path(os.environ.get("OUT", ".")) / "two_ranks.json"
        out.write_text(json.dumps({"jobs": jobs, "wrong": wrong, "seconds": seconds}, indent=1) + "\n")
        print(f"{seconds} s in all; " + ("all as it should be" if not wrong else "WRONG:"))
        print("\n".join(wrong))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
