"""Ray with a warm start: every actor of the job, on whichever node it lands, gets its kernels from the bucket.

`python serve.py`. Ray installs the package and sets the variables in each worker before that imports PyTorch.
"""

import ray

TRITONSYNC = {
    "TRITONSYNC_URL": "s3://example-kernels/tritonsync",
    # The processes of actors have no name of their own.
    "TRITONSYNC_WORKLOAD": "resnet50",
    "TRITONSYNC_MODE": "read-only",
}


@ray.remote(num_gpus=1)
class Replica:
    """One model on one GPU."""

    def __init__(self) -> None:
        import torch
        import torchvision

        self._torch = torch
        self._model = torch.compile(torchvision.models.resnet50().cuda().eval())

    def run(self, size: int) -> list[int]:
        """Classify noise; the first call compiles, or is warm."""
        with self._torch.inference_mode():
            out = self._model(self._torch.randn(size, 3, 224, 224, device="cuda"))
        return [int(best) for best in out.argmax(1)]


if __name__ == "__main__":
    ray.init(runtime_env={"pip": ["tritonsync[s3]"], "env_vars": TRITONSYNC})
    replicas = [Replica.remote() for _ in range(2)]
    print(ray.get([replica.run.remote(8) for replica in replicas]))  # noqa: T201
