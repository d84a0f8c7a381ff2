"""Joblib backends for parallel work."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, get_args

from scionet.choices.resources import BackendName
from scionet.errors import InvalidSetting
from scionet.extras import extra


@contextmanager
def configured(backend: BackendName, workers: int | None) -> Iterator[None]:
    """Configure joblib's backend and number of workers.

    Raises:
        InvalidSetting: If the backend is unknown.
        MissingExtra: If it is not installed.
    """
    if backend not in get_args(BackendName):
        raise InvalidSetting(f"backend must be one of {', '.join(get_args(BackendName))}; given {backend!r}")
    if backend == "ray":
        with extra("ray"):
            import_module("ray.util.joblib").register_ray()
    elif backend == "dask":
        with extra("dask"):
            import_module("distributed")  # which registers joblib's backend
    with extra("workers"):
        from joblib import parallel_config
    options: dict[str, Any] = {"backend": backend, "n_jobs": -1 if workers is None else workers}
    with parallel_config(**options):
        yield
