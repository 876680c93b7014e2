"""Stands in for ``python -m vggrpo train``: the same flags, files, signals and exit codes, and no model.

The word in the first prompt chooses what happens: ``crash`` (a traceback after two iterations), ``memory`` (dies of a
lack of it), ``cuda`` (the same, but says what to lower), ``refuse`` (a user's mistake), ``deaf`` (never hears SIGTERM);
anything else trains. One iteration takes ``FAKE_SECONDS``.
"""

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path

CLIP = Path(os.environ.get("FAKE_CLIP", ""))


def write_json(path: Path, content: object) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(json.dumps(content))
    draft.replace(path)


class FakeTrainer:
    def __init__(self, flags: argparse.Namespace) -> None:
        self.out: Path = flags.out
        self.seconds = float(os.environ.get("FAKE_SECONDS", "0.05"))
        self.stopped = False
        self.config = self._config(flags)
        self.iterations = int(self.config["iterations"])
        self.word = Path(self.config["prompts"]).read_text().split()[0] if self.config["prompts"] else ""
        signal.signal(signal.SIGTERM, self._stop)

    def _config(self, flags: argparse.Namespace) -> dict:
        path = self.out / "config.yaml"
        if flags.resume:
            return json.loads(path.read_text())
        if self.out.exists():
            sys.exit(f"error: {self.out} exists already")
        self.out.mkdir(parents=True)
        config = {name: str(value) if isinstance(value, Path) else value for name, value in vars(flags).items()}
        path.write_text(json.dumps(config))
        return config

    def _stop(self, *_: object) -> None:
        self.stopped = self.word != "deaf"

    def status(self, state: str, iteration: int, message: str = "") -> None:
        left = (self.iterations - iteration) * self.seconds
        content = {"state": state, "iteration": iteration, "iterations": self.iterations, "pid": os.getpid()}
        write_json(self.out / "status.json", content | {"message": message, "seconds_left": left})

    def run(self) -> int:
        if self.word == "refuse":
            sys.stderr.write(f"error: The adapter in {self.out} does not fit.\n")
            return 2
        done = self.newest()
        self.status("running", done)
        if done == 0:
            self.log({"iteration": 0, **self.held_out(0)})
            self.sample(0)
        while done < self.iterations and not self.stopped:
            time.sleep(self.seconds)
            done += 1
            self.iterate(done)
            if self.word == "crash" and done == 2:
                raise RuntimeError("the transformer fell apart")
            if self.word == "cuda" and done == 2:
                sys.stderr.write("error: out of memory in the update: give a lower --micro-batch than 4.\n")
                return 2
            if self.word == "memory" and done == 2:
                raise MemoryError("DefaultCPUAllocator: can't allocate memory")
        self.checkpoint(done)
        state = "stopped" if done < self.iterations else "finished"
        self.status(state, done, f"{state} after iteration {done}.")
        return 0

    def newest(self) -> int:
        return max((int(path.name[5:]) for path in (self.out / "checkpoints").glob("step-*")), default=0)

    def iterate(self, done: int) -> None:
        rise = 1 - math.exp(-done / 8)
        row = {
            "iteration": done,
            "reward/motion_smoothness/mean": 0.7 + 0.15 * rise,
            "reward/motion_smoothness/std": 0.05,
            "reward/geometry_consistency/mean": -0.09 + 0.04 * rise,
            "reward/geometry_consistency/std": 0.02,
            "reward/scene_smoothness/mean": None,
            "guard/camera_path_length": 0.8 - 0.05 * rise,
            "ratio/abs_dev_max": 2e-4 * rise,
            "clip_frac": 0.1 * rise,
            "kl": 1e-3 * rise,
            "grad_norm": 0.4,
            "grad_agreement": 0.3,
            "group/zero_std_ratio": 0.0,
            "reward/nan_frac": 0.0,
            "time/rollout": 0.6 * self.seconds,
            "time/reward": 0.1 * self.seconds,
            "time/update": 0.3 * self.seconds,
            "memory/peak_mb": 900.0,
        }
        self.log(row | (self.held_out(done) if done % 2 == 0 else {}))
        if done % 2 == 0:
            self.checkpoint(done)
            self.sample(done)
        self.status("running", done)

    def held_out(self, done: int) -> dict:
        gain = 0.1 * (1 - math.exp(-done / 8))
        return {"eval/motion_smoothness/mean": 0.7 + gain, "eval/geometry_consistency/mean": -0.09 + 0.3 * gain}

    def log(self, row: dict) -> None:
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        with (self.out / "train.log").open("a") as file:
            file.write(f"iteration {row['iteration']}: {len(row)} numbers\n")

    def checkpoint(self, done: int) -> None:
        folder = self.out / "checkpoints" / f"step-{done:06d}"
        draft = folder.with_name(f".{folder.name}")
        draft.mkdir(parents=True, exist_ok=True)
        (draft / "pytorch_lora_weights.safetensors").write_bytes(b"weights %d" % done)
        write_json(draft / "state.json", {"iteration": done})
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        (self.out / "adapter").mkdir(exist_ok=True)
        shutil.copy(folder / "pytorch_lora_weights.safetensors", self.out / "adapter")

    def sample(self, done: int) -> None:
        folder = self.out / "samples" / (f"step-{done:06d}" if done else "base")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "samples" / "prompts.json", ["a red cube", "a blue cone"])
        for index, seed in ((0, 11), (1, 12)):
            target = folder / f"{index}-{seed}.mp4"
            shutil.copy(CLIP, target) if CLIP.is_file() else target.write_bytes(b"")


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--iterations", type=int, default=4)
    for name in ("preset", "transition"):
        parser.add_argument(f"--{name}")
    for name in ("training-captions", "group-size", "groups", "motion-guard", "learning-rate", "kl-weight", "seed"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("motion-smoothness", "geometry-consistency", "scene-smoothness"):
        parser.add_argument(f"--weights.{name}", type=float)
    return FakeTrainer(parser.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
