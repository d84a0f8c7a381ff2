import pytest

DEFAULT_CASES = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-cases", type=int, default=DEFAULT_CASES, help="cases of each fuzzer")


@pytest.fixture
def fuzz_cases(request: pytest.FixtureRequest) -> int:
    """The number of cases of each fuzzer: `make fuzz`, or `pytest tests/adversarial --fuzz-cases 5000`."""
    return int(request.config.getoption("--fuzz-cases", default=DEFAULT_CASES))
