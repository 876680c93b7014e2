"""Result files as the commands write them, with numbers that are made up: nothing is measured."""

from pathlib import Path
from typing import Any

import torch

from vggrpo.evaluation.results import Provenance, Result, take_provenance, write_result

CONTESTANTS = {
    "base": "Base model",
    "vggrpo": "VGGRPO",
    "vggrpo_scene": "VGGRPO + scene smoothness",
    "vggrpo_rgb": "VGGRPO with the RGB-space reward",
    "sft": "SFT on smooth world clips",
    "epipolar_dpo": "Epipolar-DPO",
    "videogpa_dpo": "VideoGPA-style DPO",
    "guidance": "Reward guidance alone",
    "true": "True clips",
}
MEASURES = (
    ("sampson", "Sampson error", "px", "lower", "independent"),
    ("reprojection", "Reprojection error", "", "lower", "independent"),
    ("smoothness", "Camera smoothness", "", "higher", "independent"),
    ("path_length", "Camera path length", "", "guard", "guard"),
    ("camera_prompt", "Camera as prompted", "", "higher", "guard"),
    ("frechet", "Fréchet distance", "", "lower", "guard"),
    ("reward/motion_smoothness", "Motion smoothness by Φ_g", "", "higher", "own"),
)
GOALS = {"sampson": "−20 % or better", "frechet": "at most 10 % above base"}


def estimate(value: float | None, *, half: float = 0.05, reason: str | None = None) -> dict[str, Any]:
    """An ``Estimate`` as JSON, with an interval of ``half`` to both sides."""
    low, high = (None, None) if value is None else (value - half, value + half)
    interval = "none" if value is None else "bootstrap"
    entry = {"value": value, "low": low, "high": high, "n": 0 if value is None else 128, "of": "clips"}
    return entry | {"interval": interval} | ({} if reason is None else {"reason": reason})


def contest_row(contestant: str, measure: str, clips: str) -> dict[str, Any]:
    """Every contestant's change grows with its place; the base and the true clips have a mean only."""
    place = list(CONTESTANTS).index(contestant)
    has_change = contestant not in {"base", "true"}
    is_unjudged = (contestant, measure) == ("guidance", "sampson")
    shift = {"all": 0.0, "static": 0.1, "dynamic": -0.1}[clips]
    change = None if is_unjudged else 0.08 * (place - 4) + shift
    relative = estimate(change, reason="no pair of frames had 20 matches" if is_unjudged else None)
    goal = GOALS.get(measure) if contestant == "vggrpo" else None
    return {
        "contestant": contestant,
        "measure": measure,
        "clips": clips,
        "mean": estimate(None if is_unjudged else 1.0 + 0.1 * place),
        "difference": relative if has_change else None,
        "relative": relative if has_change else None,
        "win_rate": estimate(None if is_unjudged else 0.4 + 0.05 * place) if has_change else None,
        "judged": 0 if is_unjudged else 128 - place,
        "of": 128,
        "reasons": {"no pair of frames had 20 matches": 128} if is_unjudged else {"too few matches": place},
        "goal": None if goal is None else {"text": goal, "met": measure == "sampson", "certain": measure == "frechet"},
        "seen_in_training": (contestant, measure) == ("epipolar_dpo", "sampson"),
    }


def duel(rival: str, clips: str, *, met: bool | None) -> dict[str, Any]:
    """VGGRPO against a rival by the Sampson error."""
    return {
        "contestant": "vggrpo",
        "rival": rival,
        "measure": "sampson",
        "clips": clips,
        "difference": estimate(0.1),
        "relative": estimate(0.1),
        "win_rate": estimate(0.6),
        "goal": {"text": f"ahead of {rival}", "met": met, "certain": True},
    }


def contest_content() -> dict[str, Any]:
    """All contestants by all measures over all, static and dynamic prompts."""
    return {
        "baseline": "base",
        "champion": "vggrpo",
        "contestants": [{"name": name, "title": title, "note": None} for name, title in CONTESTANTS.items()],
        "measures": [
            {"name": name, "title": title, "unit": unit, "better": better, "trained_on": family == "own"}
            | {"family": family}
            for name, title, unit, better, family in MEASURES
        ],
        "rows": [
            contest_row(contestant, measure[0], clips)
            for measure in MEASURES
            for clips in ("all", "static", "dynamic")
            for contestant in CONTESTANTS
        ],
        "duels": [
            duel("sft", "all", met=True),
            duel("epipolar_dpo", "all", met=False),
            duel("sft", "static", met=None),
        ],
        "remarks": ["Epipolar-DPO was trained on the Sampson error: <not> an unseen judge for it."],
    }


def robustness_content() -> dict[str, Any]:
    """Φ_g better by 1° a step against the truth, Φ on decoded video better against its own reading."""
    levels = [0.0, 0.2, 0.4]
    rows, advantages = [], []
    for against in ("truth", "clean"):
        for measure in ("rotation_degrees", "direction_degrees"):
            for step, level in enumerate(levels):
                latent = 2.0 + step
                gain = step if against == "truth" else -step
                for reader, value in (("latent", latent), ("decoded", latent + gain)):
                    told = {"reader": reader, "against": against, "measure": measure, "level": level}
                    rows.append(told | {"estimate": estimate(value, half=0.5)})
                told = {"against": against, "measure": measure, "level": level}
                advantages.append(told | {"estimate": estimate(float(gain), half=0.5)})
    return {
        "levels": levels,
        "clips": 64,
        "rows": rows,
        "advantage": advantages,
        "decoded_psnr": [estimate(25.0 - step) for step in range(3)],
        "yardsticks": {"rotation_degrees": estimate(4.5), "direction_degrees": 90.0},
    }


def cost_content() -> dict[str, Any]:
    """Three quarters of the time, nine tenths of the memory."""
    latent = {"seconds": 3.0, "processor_seconds": 3.0, "phases": {"geometry": 2.0, "judge": 1.0}}
    rgb = {"seconds": 4.0, "processor_seconds": 4.0, "phases": {"decode": 1.0, "geometry": 2.0, "judge": 1.0}}
    return {
        "preset": "tiny",
        "videos": 4,
        "device": "cpu",
        "threads": 1,
        "latent": latent | {"weights_mb": 40.0, "tensors_mb": 50.0, "peak_mb": 90.0, "rewards": {}},
        "rgb": rgb | {"weights_mb": 30.0, "tensors_mb": 70.0, "peak_mb": 100.0, "rewards": {}},
        "ratio": {"seconds": 0.75, "processor_seconds": 0.75, "peak_mb": 0.9},
    }


def a_provenance(name: str) -> Provenance:
    """Of a command that there is not."""
    return take_provenance(
        f"python -m vggrpo make {name} <fast>",
        preset="tiny",
        device=torch.device("cpu"),
        seconds=5400.0,
        seeds={"first_world": 0},
    )


CONTENTS = {
    "contest": ("contest", contest_content),
    "transitions": ("contest", contest_content),
    "robustness": ("robustness", robustness_content),
    "cost": ("cost", cost_content),
}


def write_results(folder: Path, *names: str) -> Path:
    """The result files of some names, or of all."""
    for name in names or CONTENTS:
        kind, content = CONTENTS[name]
        write_result(folder / f"{name}.json", Result(kind=kind, provenance=a_provenance(name), content=content()))
    return folder
