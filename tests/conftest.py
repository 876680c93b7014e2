"""Set up before any test module is imported: checked shapes, one thread, no network, and no silently skipped browser.

``jaxtyping``'s import hook makes beartype check every annotation of ``vggrpo`` while the tests run; production never
pays for it. It must be installed before the first ``import vggrpo``.
"""

import os
import random

# Several test processes share the cores, and torch is many times slower when its threads outnumber them.
# Subprocesses that tests start (the command line, the page) inherit all of these.
os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    GRADIO_ANALYTICS_ENABLED="False",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
)

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
install_import_hook("vggrpo", "beartype.beartype")


@pytest.fixture(autouse=True)
def same_noise_in_any_order() -> None:
    """Every test begins with the same global generators, whatever ran before it in its process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


class BrowserTestsRan:
    """Fails the session unless at least one test marked ``browser`` ran and none was skipped."""

    def __init__(self) -> None:
        self.passed = 0
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count; with pytest-xdist the reports of all workers arrive at the one controller."""
        if "browser" not in report.keywords:
            return
        if report.skipped:
            self.skipped.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a session without its browser test into a failed one."""
        if session.exitstatus == pytest.ExitCode.OK and (self.skipped or not self.passed):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why."""
        if self.skipped or not self.passed:
            what = f"skipped {', '.join(self.skipped)}" if self.skipped else "no browser test ran"
            terminalreporter.write_line(f"ERROR: REQUIRE_BROWSER=1, but {what}.", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """REQUIRE_BROWSER=1 (as in .ci/run): a machine without chromium must not pass by skipping."""
    is_controller = not hasattr(config, "workerinput")
    if os.environ.get("REQUIRE_BROWSER") == "1" and is_controller:
        config.pluginmanager.register(BrowserTestsRan(), "browser-tests-ran")
