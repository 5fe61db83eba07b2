"""Headwater under load, for Locust. `python -m loadtests` runs it; README.md says what it measures.

The load is sent by loadtests.generator, in a thread without gevent. Locust's part is what it is good at: its tables,
charts and reports. So its users do nothing, and its number of users means nothing here.
"""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from typing import Any

import gevent
from gevent import monkey
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner

from loadtests.figures import Figures, entries
from loadtests.generator import Generator
from loadtests.options import add_options, options_of
from loadtests.report import show
from loadtests.target import LOOPBACK
from loadtests.workload import Workload

_log = logging.getLogger(__name__)
_PUMP_SECONDS = 0.05
_STOP_SECONDS = 5.0
INTERRUPTED, FAILED = 130, 1

if monkey.is_module_patched("threading"):
    raise SystemExit(
        "gevent has patched this process, and gRPC's times would be wrong: run `python -m loadtests`, or set "
        "LOCUST_SKIP_MONKEY_PATCH=1 for locust itself"
    )


class Idle(User):
    """Locust wants a user; the load does not come from it."""

    fixed_count = 1

    @task
    def wait(self) -> None:
        raise StopUser


class Run:
    """One run of the generator, told to Locust as it goes."""

    def __init__(self, environment: Environment, given: Namespace) -> None:
        self._environment = environment
        self.options = options_of(given)
        self._figures = Figures(self.options)
        self._generator = Generator(self.options, Workload(self.options))
        self._ended = False

    def start(self) -> None:
        self._generator.start()
        gevent.spawn(self._follow)

    def _follow(self) -> None:
        while self._generator.running:
            self._pump()
            gevent.sleep(_PUMP_SECONDS)
        runner = self._environment.runner
        if self._ended or runner is None:
            return
        # Stopping the test ends this run: see `end`.
        if self._environment.web_ui is None:
            runner.quit()
        else:
            runner.stop()

    def _pump(self) -> None:
        while self._generator.outcomes:
            outcome = self._generator.outcomes.popleft()
            self._figures.add(outcome)
            for entry in entries(outcome, self.options.slo_ms):
                self._environment.events.request.fire(
                    request_type=entry.request_type,
                    name=entry.name,
                    response_time=entry.ms,
                    response_length=0,
                    exception=RuntimeError(entry.error) if entry.error else None,
                    context={},
                )

    def end(self) -> None:
        """Stop what goes on, sum up."""
        if self._ended:
            return
        self._ended = True
        interrupted = self._generator.running
        self._generator.stop()
        with gevent.Timeout(_STOP_SECONDS, False):
            while self._generator.running:
                gevent.sleep(_PUMP_SECONDS)
        self._pump()
        error = self._generator.error
        if error is not None:
            _log.error("the run ended before its time: %s", error)
        summary = self._figures.summary(
            seconds=self._generator.seconds,
            elapsed_seconds=self._generator.elapsed_seconds,
            most_in_flight=self._generator.most_in_flight,
            error=str(error) if error else "interrupted" if interrupted else "",
        )
        self._environment.process_exit_code = INTERRUPTED if interrupted else FAILED if error else 0
        if self.options.summary:
            self.options.summary.write_text(json.dumps(summary, indent=2) + "\n")
        else:
            show(summary)


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    add_options(parser)
    # Locust's page is for whoever started it: by default it would listen on every address.
    parser.set_defaults(web_host=LOOPBACK)


@events.init.add_listener
def _check(environment: Environment, **_: object) -> None:
    try:
        given = environment.parsed_options
        options_of(given)
        names = ("address", "i_own_this_target", "summary", "questions", "documents", "tenants")
        _fixed.update({name: getattr(given, name) for name in names})
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if not isinstance(environment.runner, LocalRunner):
        raise SystemExit("the load comes from one process: start it without --master, --worker and --processes")


_runs: list[Run] = []
_fixed: dict[str, Any] = {}
"""What is decided at the start, and by no form of the page: where load goes, and which files are read and written."""


@events.test_start.add_listener
def _start(environment: Environment, **_: object) -> None:
    try:
        run = Run(environment, _given(environment))
    except ValueError as error:  # what was typed into the page, or a file that cannot be used
        _log.error("%s", error)
        environment.process_exit_code = FAILED
        if environment.runner is not None and environment.web_ui is None:
            environment.runner.quit()
        return
    _runs[:] = [run]
    run.start()


@events.test_stop.add_listener
def _stop(environment: Environment, **_: object) -> None:
    for run in _runs:
        run.end()


def _given(environment: Environment) -> Namespace:
    return Namespace(**vars(environment.parsed_options) | _fixed)
