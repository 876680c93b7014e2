"""All rewards of a batch of videos, and their form in ``rewards.json``."""

import math
from dataclasses import dataclass

from torch import Tensor

from vggrpo.rewards.added import added_rewards, added_term
from vggrpo.rewards.geometry_consistency import geometry_consistency
from vggrpo.rewards.guards import Guards, measure_guards
from vggrpo.rewards.motion_smoothness import motion_smoothness
from vggrpo.rewards.scene_smoothness import scene_smoothness
from vggrpo.rewards.settings import DEFAULT_REWARDS, RewardSettings
from vggrpo.types import RewardTerm, SceneGeometry


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardReport:
    """Every reward term and the guards of a batch of videos."""

    motion_smoothness: RewardTerm
    geometry_consistency: RewardTerm
    scene_smoothness: RewardTerm
    guards: Guards
    added: tuple[RewardTerm, ...] = ()
    """Rewards of one's own, see ``added``."""

    @property
    def terms(self) -> dict[str, RewardTerm]:
        """The reward terms by name."""
        terms = (self.motion_smoothness, self.geometry_consistency, self.scene_smoothness, *self.added)
        return {term.name: term for term in terms}

    def to_json(self, index: int = 0) -> dict[str, object]:
        """Video ``index`` as the object of ``rewards.json``: NaN becomes None, a value of None carries a "reason"."""
        report: dict[str, object] = {name: _term_to_json(term, index) for name, term in self.terms.items()}
        report["guards"] = {
            "camera_path_length": _number(self.guards.camera_path_length[index]),
            "dynamic_degree": _number(self.guards.dynamic_degree[index]),
            "moving_share": _number(self.guards.moving_share[index]),
        }
        return report


def judge(scene: SceneGeometry, *, settings: RewardSettings = DEFAULT_REWARDS) -> RewardReport:
    """Compute every reward of a batch of videos."""
    return RewardReport(
        motion_smoothness=motion_smoothness(scene, settings=settings.motion),
        geometry_consistency=geometry_consistency(scene, settings=settings.geometry),
        scene_smoothness=scene_smoothness(scene, settings=settings.scene),
        guards=measure_guards(scene, static_threshold=settings.geometry.static_threshold),
        added=tuple(added_term(name, scene) for name in added_rewards()),
    )


def _term_to_json(term: RewardTerm, index: int) -> dict[str, object]:
    """One term in the contract's form."""
    entry: dict[str, object] = {
        "value": _number(term.value[index]),
        "per_frame": [_number(value) for value in term.per_frame[index]],
    }
    if term.worst_frames is not None:
        judged = term.per_frame[index].isfinite()
        entry["worst_frames"] = [frame for frame in term.worst_frames[index].tolist() if judged[frame]]
    reason = term.reasons[index]
    if reason is not None:
        entry["reason"] = reason
    return entry


def _number(value: Tensor) -> float | None:
    """A float that JSON can hold. Rounded to 7 significant digits, beyond which float32 holds none."""
    # Adding zero turns -0.0, the geometry term's perfect score, into 0.0.
    number = float(value) + 0.0
    return float(f"{number:.7g}") if math.isfinite(number) else None
