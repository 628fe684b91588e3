"""The counters of a server, in the form that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from stylert.runtime.serving.batcher import Observer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server.

    Attributes:
        registry: All of them, for `prometheus_client.generate_latest`.
        requests: Answered requests by route and status.
        request_seconds: Their time from the head to the last byte, by route.
        images: Images that were made, by model.
        batch_images: Images of each call of a network, by model.
        queue_seconds: Longest wait of an image in each batch, by model.
        network_seconds: Time of each call, by model.
        waiting: Images that wait now, by model.
        running: Requests that run now.
        reloads: Reloads of bundles by result.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("stylert_requests", "Answered requests", ["route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "stylert_request_seconds",
            "Time of a request, from its head to its last byte",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.images = Counter("stylert_images", "Images that were made", ["model"], registry=registry)
        self.batch_images = Histogram("stylert_batch_images", "Images in a call", ["model"], buckets=BATCHES, registry=registry)
        self.queue_seconds = Histogram(
            "stylert_queue_seconds", "Longest wait in a batch", ["model"], buckets=SECONDS, registry=registry
        )
        self.network_seconds = Histogram(
            "stylert_network_seconds", "Time of a call", ["model"], buckets=SECONDS, registry=registry
        )
        self.waiting = Gauge("stylert_waiting_images", "Images that wait", ["model"], registry=registry)
        self.running = Gauge("stylert_running_requests", "Requests that run", registry=registry)
        self.reloads = Counter("stylert_reloads", "Reloads of a bundle", ["bundle", "result"], registry=registry)

    def batch_observer(self, model: str) -> Observer:
        """The function that counts the batches of a model."""
        images, sizes = self.images.labels(model), self.batch_images.labels(model)
        waits, calls = self.queue_seconds.labels(model), self.network_seconds.labels(model)

        def observe(batch: int, waited: float, seconds: float) -> None:
            images.inc(batch)
            sizes.observe(batch)
            waits.observe(waited)
            calls.observe(seconds)

        return observe
