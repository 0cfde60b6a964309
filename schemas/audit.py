"""An audit and its outcomes, and the one place that runs Great Expectations.

Great Expectations takes 3 s to import, so it is imported by the first audit: a run that has
nothing to commit never pays for it. Its context is ephemeral: no files, no network, no progress
bars.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from schemas.errors import AuditError

Severity = Literal["critical", "warning"]

_EXAMPLES = 3
_LONGEST = 80
_BOUNDS = {
    "min_value": "at least",
    "max_value": "at most",
    "value": "exactly",
    "value_set": "one of",
    "regex": "matching",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One expectation of an audit and what was found.

    expectation: Great Expectations' name, such as `expect_column_values_to_be_unique`.
    column: the column of the audit frame; empty for an expectation on the whole table.
    expected: the bounds, such as `at least 0.999, at most 1.001`; empty where the name says all.
    observed: the aggregate, or how many values are unexpected, with a few of them.
    """

    expectation: str
    column: str
    expected: str
    severity: Severity
    success: bool
    observed: str

    def __str__(self) -> str:
        column = f" of '{self.column}'" if self.column else ""
        expected = f" ({self.expected})" if self.expected else ""
        return f"{self.expectation}{column}{expected}: observed {self.observed}"


@dataclass(frozen=True, slots=True)
class Audit:
    """The outcomes of one suite over `rows` staged rows, those on the whole table first."""

    suite: str
    rows: int
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The critical expectations that were not met; any forbids the commit."""
        return tuple(o for o in self.outcomes if o.severity == "critical" and not o.success)

    @property
    def warnings(self) -> tuple[Outcome, ...]:
        """The expectations that were not met and are only worth a look."""
        return tuple(o for o in self.outcomes if o.severity == "warning" and not o.success)

    def require(self) -> None:
        """Raises `AuditError`, which names the first critical failure and its observed value."""
        if not self.failures:
            return
        first, others = self.failures[0], len(self.failures) - 1
        more = f" (and {others} more)" if others else ""
        raise AuditError(f"audit of {self.suite} failed, nothing was published: {first}{more}")

    def to_json(self) -> dict[str, object]:
        """The audit as JSON-able values: an entry of validation.json."""
        return {
            "suite": self.suite,
            "rows": self.rows,
            "success": not self.failures,
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
        }


def great_expectations() -> Any:
    """The `great_expectations` package, imported on first use."""
    with warnings.catch_warnings():  # it imports sre_constants, deprecated since Python 3.11
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations
    return great_expectations


def validate(suite: str, checks: Sequence[tuple[pd.DataFrame, Sequence[Any]]]) -> Audit:
    """Validates frames against lists of Great Expectations' expectations, as one audit.

    The audit counts the rows of the first frame. An expectation that cannot be evaluated (its
    column is missing, say) has failed.
    """
    gx = great_expectations()
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    frames = context.data_sources.add_pandas("staged")
    outcomes: list[Outcome] = []
    for number, (frame, expectations) in enumerate(checks):
        asset = frames.add_dataframe_asset(f"frame {number}")
        definition = asset.add_batch_definition_whole_dataframe("whole")
        batch = definition.get_batch(batch_parameters={"dataframe": frame})
        result = batch.validate(gx.ExpectationSuite(suite, expectations), result_format="BASIC")
        outcomes += map(_outcome, result.results)
    outcomes.sort(key=lambda outcome: outcome.column != "")
    return Audit(suite, len(checks[0][0]), tuple(outcomes))


def _outcome(result: Any) -> Outcome:
    config = result.expectation_config
    return Outcome(
        expectation=config.type,
        column=config.kwargs.get("column", ""),
        expected=", ".join(
            f"{words} {_text(config.kwargs[name])}"
            for name, words in _BOUNDS.items()
            if config.kwargs.get(name) is not None
        ),
        severity="warning" if config.severity == "warning" else "critical",
        success=bool(result.success),
        observed=_observed(result),
    )


def _observed(result: Any) -> str:
    found = result.result or {}
    if missing := (found.get("details") or {}).get("mismatched", {}).get("missing"):
        return f"no {_text(missing)}"
    if "observed_value" in found:
        return _text(found["observed_value"])
    if "unexpected_count" in found:
        count = found["unexpected_count"]
        text = f"{count} of {found['element_count']} values unexpected"
        values = found.get("partial_unexpected_list") or ()
        examples = dict.fromkeys(_text(value) for value in values if not pd.isna(value))
        return f"{text}, such as {', '.join(list(examples)[:_EXAMPLES])}" if examples else text
    return _failure(result.exception_info)


def _failure(exceptions: Mapping[str, Any]) -> str:
    """Great Expectations gives one exception, or a mapping of them by metric."""
    infos = [exceptions, *(value for value in exceptions.values() if isinstance(value, Mapping))]
    messages = [info["exception_message"] for info in infos if info.get("exception_message")]
    return str(messages[0]).splitlines()[0] if messages else "nothing"


def _text(value: object) -> str:
    if isinstance(value, (list, tuple, set)):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    return " ".join(str(value).split())[:_LONGEST]  # a staged string may hold anything
