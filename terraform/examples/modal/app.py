"""Modal with a warm start: each container that comes up gets its kernels from the bucket.

`modal deploy app.py`. The secret holds AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of a reader.
"""

import modal

TRITONSYNC = {
    "TRITONSYNC_URL": "s3://example-kernels/tritonsync",
    # Modal's own program runs the functions of every app, so its name tells nothing.
    "TRITONSYNC_WORKLOAD": "resnet50",
    "TRITONSYNC_MODE": "read-only",
}

image = (
    modal.Image.debian_slim(python_version="3.12").pip_install("torch", "torchvision", "tritonsync[s3]").env(TRITONSYNC)
)
app = modal.App("resnet50", image=image)


@app.cls(gpu="H100", secrets=[modal.Secret.from_name("tritonsync-reader")])
class Model:
    """One model on one GPU."""

    @modal.enter()
    def start(self) -> None:
        """Compile, or be warm, before the container takes its first request."""
        import torch
        import torchvision

        self._torch = torch
        self._model = torch.compile(torchvision.models.resnet50().cuda().eval())
        self.run.local(8)

    @modal.method()
    def run(self, size: int) -> list[int]:
        """Classify noise."""
        with self._torch.inference_mode():
            out = self._model(self._torch.randn(size, 3, 224, 224, device="cuda"))
        return [int(best) for best in out.argmax(1)]
