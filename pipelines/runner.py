"""Runs a pipeline to its end on the runner of the settings, and brings its counters back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker import sdk_worker

from schemas import errors
from schemas.errors import SettingsError

LOCAL = "FnApiRunner"
# By its full name: the short one, and DirectRunner, first try to download another runner.
_LOCAL_CLASS = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"


@dataclass(frozen=True)
class Runner:
    """Where jobs run: FnApiRunner in this process, or any runner that Beam knows by name."""

    name: str = LOCAL
    workers: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, build: Callable[[beam.Pipeline], Any]) -> dict[str, int]:
        """Build the pipeline, wait for its end and return its counters by name.

        Raises SettingsError for an unknown runner or option, and what a worker raised.
        """
        pipeline = beam.Pipeline(options=self._pipeline_options())
        build(pipeline)
        try:
            with _tracebacks_in_the_log():
                result = pipeline.run()
                result.wait_until_finish()
        except RuntimeError as error:
            raise _raised(error) from error
        counters: dict[str, int] = {}
        for counter in result.metrics().query()["counters"]:
            name = counter.key.metric.name
            counters[name] = counters.get(name, 0) + counter.result
        return counters

    def probe(self) -> None:
        """Run a pipeline of nothing, to see that the runner starts."""
        self.run(lambda pipeline: pipeline | beam.Create([None]))

    def check(self) -> None:
        """See that Beam knows the runner and its options, which starts nothing.

        Raises SettingsError where it does not.
        """
        self._pipeline_options()

    def _pipeline_options(self) -> PipelineOptions:
        options: dict[str, Any] = {"runner": self.name, "save_main_session": False}
        if self.name == LOCAL:
            options["runner"] = _LOCAL_CLASS
            options["direct_running_mode"] = "multi_threading" if self.workers > 1 else "in_memory"
            options["direct_num_workers"] = self.workers
        options.update(self.options)
        known = PipelineOptions(flags=[]).get_all_options()
        for key in self.options:
            if key not in known:
                raise SettingsError(f"runner_options: Beam knows no option {key!r}")
        try:
            pipeline_options = PipelineOptions(flags=[], **options)
            beam.runners.create_runner(pipeline_options.get_all_options()["runner"])
        except (ValueError, ImportError, AttributeError) as error:
            raise SettingsError(f"runner is {self.name!r}: {error}") from None
        return pipeline_options


@contextmanager
def _tracebacks_in_the_log() -> Iterator[None]:
    """Beam logs what a worker raised, which a run keeps, and also prints it: pages on stderr."""
    names = vars(sdk_worker)
    names["print"] = lambda *_, **__: None
    try:
        yield
    finally:
        names.pop("print", None)  # another thread's run may have ended too


def _raised(error: RuntimeError) -> Exception:
    """The error of ours that ended a worker: Beam brings it as the last line of a traceback."""
    last = str(error).strip().rpartition("\n")[2]
    ours = re.fullmatch(r"schemas\.errors\.(\w+): (.*?)( \[while running .*\])?", last)
    if ours is None:
        return error
    kind = getattr(errors, ours[1])
    return kind(ours[2]) if issubclass(kind, errors.LongtailError) else error
