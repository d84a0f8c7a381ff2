"""Joblib backends for parallel work."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from ipaddress import ip_address
from typing import Any, get_args

from scionet.choices.resources import BackendName
from scionet.errors import InvalidSetting
from scionet.extras import extra

_ADDRESS = "RAY_ADDRESS"
_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray reads this when it is imported. At 0 it listens on loopback alone, on Linux too; `_node_ip_address` does not do
that, since Ray replaces a loopback address by the address of the machine."""


@contextmanager
def configured(backend: BackendName, workers: int | None) -> Iterator[None]:
    """Configure joblib's backend and number of workers.

    ``"ray"`` uses the cluster that this process is connected to, or that the variable RAY_ADDRESS names. Otherwise a
    local Ray is started, which listens on loopback alone and ends with the block.

    Raises:
        InvalidSetting: If the backend is unknown, or a local Ray would be open to the network.
        MissingExtra: If it is not installed.
    """
    if backend not in get_args(BackendName):
        raise InvalidSetting(f"backend must be one of {', '.join(get_args(BackendName))}; given {backend!r}")
    with ExitStack() as started:
        if backend == "ray":
            started.enter_context(_ray())
        elif backend == "dask":
            with extra("dask"):
                import_module("distributed")  # which registers joblib's backend
        with extra("workers"):
            from joblib import parallel_config
        options: dict[str, Any] = {"backend": backend, "n_jobs": -1 if workers is None else workers}
        with parallel_config(**options):
            yield


@contextmanager
def _ray() -> Iterator[None]:
    """Register joblib's backend, and start a local Ray if there is no cluster.

    Raises:
        InvalidSetting: If the local Ray would listen beyond loopback.
    """
    named = _ADDRESS in os.environ
    if not named and "ray" not in sys.modules:
        os.environ.setdefault(_CLUSTER, "0")
    with extra("ray"):
        ray = import_module("ray")
        import_module("ray.util.joblib").register_ray()
    if named or ray.is_initialized():
        yield
        return
    if not ip_address(ray.util.get_node_ip_address()).is_loopback:
        raise InvalidSetting(
            f"a local Ray would be open to the network, since ray was imported without {_CLUSTER}=0: set this variable "
            "before ray is imported, or connect to a cluster with ray.init()"
        )
    ray.init(address="local", include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()
