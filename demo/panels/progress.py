"""The progress of a job and its errors as small pieces of HTML."""

from html import escape

from demo.job_queue import StepReport
from demo.text import PHASES, WAITING

_SHARES = {
    "load": 0.0,
    "text": 0.05,
    "denoise": 0.08,
    "decode": 0.78,
    "geometry": 0.84,
    "rewards": 0.92,
    "recording": 0.95,
}
"""Where each phase starts on the bar of a warm model; the bar shows order and speed, the clock tells the time."""


def progress_html(report: StepReport, *, is_warm: bool) -> str:
    """Phase, steps, remaining time, a bar, and the list of phases with the current one marked."""
    if report.phase == "queue":
        return _waiting_html(report.ahead)
    names = list(PHASES)
    current = names.index(report.phase) if report.phase in PHASES else 0
    steps = f" {report.done} of {report.total}" if report.total > 1 else ""
    label = PHASES.get(report.phase, report.phase) + steps
    if report.side:
        label = f"{report.side.capitalize()} · {label}"
    if report.seconds_left is not None:
        time = f"about {max(report.seconds_left, 1):.0f} s left"
    else:
        time = "" if is_warm else "the first video takes longer"
    items = "".join(
        f'<li data-state="{"done" if i < current else "now" if i == current else "next"}">{escape(PHASES[name])}</li>'
        for i, name in enumerate(names)
    )
    percent = 100.0 * _share_of_pair(report)
    return (
        f'<div class="progress" role="status" data-phase="{escape(report.phase)}"><div class="line">'
        f"<span>{escape(label)}</span><span>{escape(time)}</span></div>"
        f'<div class="track" role="progressbar" aria-valuenow="{percent:.0f}" aria-valuemin="0" aria-valuemax="100">'
        f'<i style="width:{percent:.1f}%"></i></div><ol>{items}</ol></div>'
    )


def _waiting_html(ahead: int) -> str:
    """How many come first."""
    line = WAITING.format(ahead="One other is" if ahead == 1 else f"{ahead} others are")
    return (
        f'<div class="progress" role="status" data-phase="queue"><div class="line"><span>{escape(line)}</span></div>'
        '<div class="track" role="progressbar" aria-valuemin="0" aria-valuemax="100"></div></div>'
    )


def error_html(message: str) -> str:
    """One line that says what is wrong and what to do."""
    return f'<div class="notice error" role="alert">{escape(message)}</div>'


def _share_of_pair(report: StepReport) -> float:
    """Progress over all that was asked for: the base is the first half of a pair, the tuned side the second."""
    if not report.side:
        return _share(report)
    return (_share(report) + (report.side == "tuned")) / 2


def _share(report: StepReport) -> float:
    """Progress over all phases in [0, 1]."""
    starts = [*_SHARES.values(), 1.0]
    position = list(_SHARES).index(report.phase) if report.phase in _SHARES else 0
    inside = report.done / report.total if report.total else 0.0
    return starts[position] + (starts[position + 1] - starts[position]) * inside
