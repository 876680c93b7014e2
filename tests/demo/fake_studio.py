"""A studio without models: real requests, real progress, a Cancel that is heard, and a synthetic run at the end."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.demo.synthetic_run import write_run
from vggrpo.generation import GenerateRequest, Progress, RewardGuidance
from vggrpo.runtime.errors import Cancelled

STEPS = 4


def guidance_entry(settings: RewardGuidance) -> dict[str, object]:
    """What a real studio writes, with numbers of our own."""
    return {
        "scale": settings.scale,
        "every": settings.every,
        "max_factor": settings.max_factor,
        "max_share": settings.max_share,
        "before": {"reward": 0.25, "motion_smoothness": 0.75, "geometry_consistency": -0.25, "camera_path_length": 0.4},
        "after": {"reward": 0.375, "motion_smoothness": 0.8, "geometry_consistency": None, "camera_path_length": 0.375},
        "guided_steps": 9,
        "clipped_steps": 2,
        "skipped_steps": 1,
        "seconds": {"guided": 6.5, "unguided": 2.25},
    }


class FakeStudio:
    """Stands in for ``vggrpo.generation.Studio``; ``patience`` is the time of one step in seconds."""

    def __init__(self, *, patience: float = 0.0) -> None:
        self.patience = patience
        self.cancelled = threading.Event()

    def generate(
        self,
        request: GenerateRequest,
        out: Path,
        *,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Write the run, or nothing if asked to stop."""
        for step in range(STEPS):
            if should_stop():
                self.cancelled.set()
                raise Cancelled
            on_progress(Progress(phase="denoise", done=step, total=STEPS, seconds_left=1.0))
            time.sleep(self.patience)
        draft = out.with_name(f".{out.name}")
        shutil.rmtree(draft, ignore_errors=True)
        write_run(draft, num_frames=9, size=32)
        manifest = json.loads((draft / "manifest.json").read_text())
        manifest |= {"kind": "generate", "prompt": request.prompt, "seed": request.seed, "preset": request.preset}
        if request.reward_guidance is not None:
            manifest["reward_guidance"] = guidance_entry(request.reward_guidance)
        (draft / "manifest.json").write_text(json.dumps(manifest))
        draft.rename(out)
