"""Prose of the Fine-tune tab, beside ``demo.text``: what each setting does, and what the paper uses."""

from demo.text import TermText

INTRO = (
    "Tune the video model with reinforcement learning: it draws several videos of each prompt, the latent geometry "
    "model judges them, and the adapter learns from what set the better ones apart."
)
EMPTY_TITLE = "No fine-tune yet"
EMPTY_HINT = (
    "Press Start. The training runs as a process of its own: you can close the page and come back, stop it with a "
    "checkpoint kept, and go on later."
)
LIST_TITLE = "Fine-tunes on this server"
SHARED = "Fine-tunes belong to this server: everyone who opens the page sees them."
MY_LIST_TITLE = "Your fine-tunes"
NOT_SHARED = (
    "Only you see this list. A fine-tune's address in the browser is a link that you can give to others: they can look "
    "and take its files. It is deleted {hours:.0f} hours after it ended, so download what you want to keep."
)
SOMEBODY_ELSES = "somebody else's: look and take its files"

RANDOM_PROMPTS = "Random scenes"
OWN_PROMPTS = "My own"
PROMPTS_HINT = "One prompt a line. Of five or more, every fifth is held out to judge on."

INFO = {
    "preset": "The models to tune; each has its own defaults below",
    "training_captions": "To train on; others are held out to judge on",
    "iterations": "Stop earlier whenever you like",
    "groups": "Each is drawn as often as K says",
    "group_size": "Videos of a prompt, judged against one another. Paper: 64",
    "motion_smoothness": "A steady camera. Paper: 1",
    "geometry_consistency": "Frames that agree on one 3D scene. Paper: 1",
    "scene_smoothness": "Things that move without jumps. Paper: 0",
    "motion_guard": "Keeps the camera from freezing. 0 is off",
    "transition": "How noise enters the trained steps: constant as in DanceGRPO, linear as in Flow-GRPO for Wan",
    "learning_rate": "Of AdamW. Paper: 1e-4",
    "kl_weight": "Pulls back to the base model. Paper: 0.004",
    "seed": "Every random number follows from it",
}
"""Tooltips by setting."""

LABELS = {
    "preset": "Preset",
    "training_captions": "How many scenes",
    "iterations": "Iterations",
    "groups": "Prompts an iteration",
    "group_size": "Group size K",
    "motion_smoothness": "Camera motion",
    "geometry_consistency": "Geometry",
    "scene_smoothness": "Scene motion",
    "motion_guard": "Motion guard",
    "transition": "Transition",
    "learning_rate": "Learning rate",
    "kl_weight": "KL weight",
    "seed": "Seed",
}

STATES = {
    "queued": "Waiting",
    "starting": "Starting",
    "running": "Running",
    "stopping": "Stopping",
    "stopped": "Stopped",
    "finished": "Finished",
    "failed": "Failed",
}

CURVES = {
    "kl": TermText(label="KL to base", short="How far the policy has moved from the base model", tip=""),
    "clip_frac": TermText(label="Clipped", short="Share of ratios outside the clip range", tip=""),
    "ratio/abs_dev_max": TermText(
        label="Ratio deviation",
        short="Largest |ratio − 1| of new to old probability in the iteration",
        tip="",
    ),
    "grad_norm": TermText(label="Gradient norm", short="Of the adapter, before clipping", tip=""),
    "grad_agreement": TermText(
        label="Gradient agreement",
        short="Cosine with the mean of earlier gradients: where it stays at 0, only chance is learnt",
        tip="",
    ),
    "group/zero_std_ratio": TermText(
        label="No signal", short="Share of prompts whose videos were all judged alike, and so taught nothing", tip=""
    ),
}
"""Curves of the policy by their name in ``metrics.jsonl``."""

GUARD_CURVES = {
    "guard/camera_path_length": TermText(
        label="Camera path", short="Not a reward: if it falls, the camera freezes to please the judge", tip=""
    ),
    "reward/nan_frac": TermText(
        label="Not judged", short="Share of videos in which a reward could not be measured", tip=""
    ),
}

PHASE_NAMES = {
    "rollout": "Draw videos",
    "guard": "Motion guard",
    "reward": "Judge",
    "clips": "Encode clips",
    "rank": "Rank videos",
    "update": "Update",
    "evaluate": "Held-out check",
    "samples": "Samples",
    "refresh": "Refresh Φg",
}
"""Phases of an iteration by their name under ``time/``."""

TAKE_AWAY = {
    "adapter": (
        "Adapter .safetensors",
        "LoRA in diffusers' format, for WanPipeline.load_lora_weights",
        "vggrpo-{job}-{iteration}.safetensors",
    ),
    "metrics": ("Metrics .jsonl", "every number of every iteration", "vggrpo-{job}-metrics.jsonl"),
    "config": ("Settings .yaml", "everything that decides the result", "vggrpo-{job}-config.yaml"),
    "log": ("Log .txt", "the trainer's log", "vggrpo-{job}-log.txt"),
}
"""File → (label, hint, name that it is saved under)."""

LOG_LINES = 14
