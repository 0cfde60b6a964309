import pytest

from detectors.findings import Budget
from schemas.errors import UsageError


def test_a_budget_is_a_count_or_a_share():
    assert Budget.parse("200").of(1000) == 200
    assert Budget.parse("200").of(10) == 10
    assert Budget.parse("2%").of(101) == 3
    assert Budget.parse("0.5%").of(100) == 1


@pytest.mark.parametrize("text", ["", "0", "-3", "0%", "101%", "many", "nan%", "2.5"])
def test_another_budget_is_an_error_that_shows_it(text):
    with pytest.raises(UsageError, match=f"budget '{text}'"):
        Budget.parse(text)
