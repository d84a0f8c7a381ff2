from collections.abc import Callable

import pytest
from hypothesis import settings
from support.commandline import printed_by

# No deadline: the machines that run the tests are shared. The same examples each time: a failure can be repeated.
settings.register_profile("scionet", deadline=None, derandomize=True)
settings.load_profile("scionet")

DEFAULT_CASES = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-cases", type=int, default=DEFAULT_CASES, help="cases of each fuzzer")


@pytest.fixture
def fuzz_cases(request: pytest.FixtureRequest) -> int:
    """The number of cases of each fuzzer: `make fuzz`, or `pytest tests/adversarial --fuzz-cases 5000`."""
    return request.config.option.fuzz_cases


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """What a fresh interpreter prints that runs the given code."""
    return printed_by
