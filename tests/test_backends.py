"""The backends of joblib; a Ray of ours is closed to the network."""

import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from scionet.backends import configured
from scionet.errors import InvalidSetting


class FakeRay(ModuleType):
    """What of Ray the backend uses. It is registered with joblib as threads."""

    def __init__(self, address: str, initialized: bool) -> None:
        super().__init__("ray")
        self.calls: list[Any] = []
        self.util = SimpleNamespace(get_node_ip_address=lambda: address)
        self.is_initialized = lambda: initialized
        self.init = lambda **settings: self.calls.append(settings)
        self.shutdown = lambda: self.calls.append("shutdown")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRay]:
    def install(address: str, initialized: bool = False) -> FakeRay:
        from joblib import register_parallel_backend
        from joblib._parallel_backends import ThreadingBackend

        ray, joblib = FakeRay(address, initialized), ModuleType("ray.util.joblib")
        joblib.register_ray = lambda: register_parallel_backend("ray", ThreadingBackend)  # type: ignore[attr-defined]
        for name, module in {"ray": ray, "ray.util": ray.util, "ray.util.joblib": joblib}.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        return ray

    return install


def test_a_local_ray_is_started_on_loopback_and_ended(fake: Callable[..., FakeRay]) -> None:
    ray = fake("127.0.0.1")
    with configured("ray", 2):
        assert ray.calls == [{"address": "local", "include_dashboard": False}]
    assert ray.calls[1:] == ["shutdown"]


def test_a_ray_that_would_be_open_is_not_started(fake: Callable[..., FakeRay]) -> None:
    ray = fake("192.0.2.7")
    with pytest.raises(InvalidSetting, match=r"would be open to the network.*RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"):
        configured("ray", 2).__enter__()
    assert ray.calls == []


@pytest.mark.parametrize("named", [False, True])
def test_a_cluster_of_the_user_is_used_as_it_is(
    named: bool, fake: Callable[..., FakeRay], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = fake("192.0.2.7", initialized=not named)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", "192.0.2.7:6379")
    with configured("ray", 2):
        pass
    assert ray.calls == []


REAL = """
import warnings
warnings.simplefilter("ignore")
import psutil
from joblib import Parallel, delayed
from scionet.backends import configured

with configured("ray", 2):
    results = Parallel()(delayed(abs)(n) for n in (-1, -2))
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    open_at = {c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == "LISTEN"}
import ray
print(results, sorted(open_at), ray.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_real_local_ray_listens_on_loopback_alone(
    run_python: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    said = run_python(REAL).splitlines()[-1]
    assert said.startswith("[1, 2] ['")
    assert said.endswith("] False")
    assert {text for text in said.split("'") if "." in text or ":" in text} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
