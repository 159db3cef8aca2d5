"""What a server takes of a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True)
class Resources:
    """What of the cluster is used.

    Attributes
    ----------
    address : of a running cluster, "auto" for the one on this machine; "local" starts one that ends with this process.
    replicas : processes that answer.
    replica_cpus, replica_gpus : that each of them takes.
    task_cpus, task_gpus : that each consolidation takes.
    cpus : that a cluster which is started here counts; by default those of the machine.
    """

    address: str = "local"
    replicas: int = 1
    replica_cpus: float = 1.0
    replica_gpus: float = 0.0
    task_cpus: float = 1.0
    task_gpus: float = 0.0
    cpus: int | None = None

    def check(self, cpus: float, gpus: float) -> None:
        """Raise `ConfigError` where replicas would leave no room for a consolidation, or not all of them fit."""
        needed = (
            self.replicas * self.replica_cpus + self.task_cpus,
            self.replicas * self.replica_gpus + self.task_gpus,
        )
        if needed[0] > cpus or needed[1] > gpus:
            raise ConfigError(
                f"{self.replicas} replicas and one consolidation take {needed[0]:g} CPUs and {needed[1]:g} GPUs; the "
                f"machine has {cpus:g} and {gpus:g}. Give fewer --replicas, or less to each (--replica-cpus, "
                "--replica-gpus, --task-cpus, --task-gpus), or a larger cluster by --ray-address."
            )
