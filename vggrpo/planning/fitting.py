"""Refusing what cannot fit, with the settings under which it would: found by planning again, not by rule of thumb."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vggrpo.grpo.config import GrpoConfig
from vggrpo.planning.plan import Plan, Planner
from vggrpo.runtime.errors import UserError

_GIB = 2**30
_JUDGING = frozenset({"guard", "reward", "evaluate", "rank"})
_DRAWING = frozenset({"rollout", "guard", "update", "evaluate", "samples"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Remedy:
    """A change of one setting that makes some phases smaller."""

    says: str
    phases: frozenset[str]
    applied: Callable[[GrpoConfig], GrpoConfig]


def require_fits(planner: Planner, config: GrpoConfig) -> Plan:
    """The plan of a training, if the machine has the memory for it.

    Raises:
        UserError: it has not; names the phase, the sizes, and settings under which it would fit, if there are any.
    """
    plan = planner.plan(config)
    if plan.fits:
        return plan
    machine = plan.machine
    raise UserError(
        f"The {plan.worst.name} phase of this training needs {plan.needed_bytes / _GIB:.1f} GiB, and {machine.name} "
        f"has {machine.memory_bytes / _GIB:.1f}. {remedy_of(planner, plan)}"
    )


def remedy_of(planner: Planner, plan: Plan) -> str:
    """What makes a plan fit that does not, in a sentence."""
    if plan.worst.name == "embed":
        return "The models' weights alone are too large: take a larger device, or several with --shard-base."
    found = _remedied(planner, plan)
    if found is None:
        return (
            "No memory setting makes it fit: give smaller --height, --width or --frames, a larger device, or several "
            "with --shard-base."
        )
    return f"It fits, with {found.plan.needed_bytes / _GIB:.1f} GiB, if you give {found.says}."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Remedied:
    """What was changed, and the plan that fits."""

    says: str
    plan: Plan


def _remedied(planner: Planner, plan: Plan) -> _Remedied | None:
    """Change one setting after the other, those that cost least speed first, until the plan fits."""
    said: list[str] = []
    tried: set[str] = set()
    while not plan.fits:
        remedy = next((r for r in _remedies(plan.config) if plan.worst.name in r.phases and r.says not in tried), None)
        if remedy is None:
            return None
        tried.add(remedy.says)
        changed = planner.plan(remedy.applied(plan.config))
        left = [phase.peak_bytes for phase in changed.phases if phase.name == plan.worst.name]
        if max(left, default=0.0) < plan.worst.peak_bytes:
            name = remedy.says.split()[0]
            # A setting that is lowered again replaces what was said of it.
            said = [*(text for text in said if not text.startswith(name)), remedy.says]
            plan = changed
    return _Remedied(says=" ".join(said), plan=plan)


def _remedies(config: GrpoConfig) -> Iterator[_Remedy]:
    """What can still be lowered."""
    if not config.gradient_checkpointing:
        yield _Remedy(
            says="--gradient-checkpointing",
            phases=frozenset({"update"}),
            applied=lambda c: replace(c, gradient_checkpointing=True),
        )
    if config.reward_batch > 1:
        fewer = config.reward_batch // 2
        yield _Remedy(says=f"--reward-batch {fewer}", phases=_JUDGING, applied=lambda c: replace(c, reward_batch=fewer))
    if min(config.micro_batch, config.group_size) > 1:
        half = min(config.micro_batch, config.group_size) // 2
        yield _Remedy(says=f"--micro-batch {half}", phases=_DRAWING, applied=lambda c: replace(c, micro_batch=half))
    if config.guidance_passes == "together":
        yield _Remedy(
            says="--guidance-passes apart", phases=_DRAWING, applied=lambda c: replace(c, guidance_passes="apart")
        )
    if config.dense_frames != 1:
        yield _Remedy(says="--dense-frames 1", phases=_JUDGING, applied=lambda c: replace(c, dense_frames=1))
    if config.reward_space == "rgb":
        yield _Remedy(
            says="--reward-space latent", phases=_JUDGING, applied=lambda c: replace(c, reward_space="latent")
        )
    if config.sample_every:
        yield _Remedy(
            says="--sample-every 0", phases=frozenset({"samples"}), applied=lambda c: replace(c, sample_every=0)
        )
