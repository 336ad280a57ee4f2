"""Certificates for single answers (randomised smoothing), one at a time, behind serving."""

from contextlib import AbstractContextManager

from torch import Tensor

from fend.bundles import Bundle
from fend.client.answers import Certified
from fend.guarantees.smoothing import certify_image, new_seed
from service.inference.background import BackgroundThread, Check
from service.observe.metrics import Metrics
from service.settings import Settings


class Certifier:
    """Certifies one image at a time; used from one event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._samples = settings.certify_samples
        self._metrics = metrics
        self._thread = BackgroundThread(
            "certificate",
            capacity=settings.certify_queue,
            priority=settings.worker_priority,
            torch_threads=settings.torch_threads,
        )

    async def close(self) -> None:
        """Finish what is worked on, and end the thread."""
        await self._thread.close()

    def admission(self) -> AbstractContextManager[None]:
        """A place among the certificates in flight; raises Busy where there is none."""
        return self._thread.admission()

    async def certify(self, bundle: Bundle, pixels: Tensor, deadline_s: float) -> Certified:
        """The certificate for one image (C,H,W), with noise from a new seed.

        `deadline_s` is on the clock of `time.monotonic`. Cancelling gives the work up.

        Raises:
            Invalid (`not_certifiable`): the bundle has no sigma.
            DeadlineExceeded.
        """

        def work(check: Check) -> Certified:
            device = next(bundle.defence.parameters()).device
            return certify_image(
                bundle, pixels.to(device), new_seed(), samples=self._samples, on_batch=check
            )

        certified = await self._thread.run(work, deadline_s)
        self._metrics.inference_compute.labels("certify").observe(self._thread.last_s)
        outcome = "abstained" if certified.abstained else "certified"
        self._metrics.certificates.labels(bundle.manifest.name, outcome).inc()
        return certified
