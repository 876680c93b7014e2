"""All prose of the page, in one place: plain words for people who have not read the paper."""

from dataclasses import dataclass

TITLE = "VGGRPO Studio"
TAGLINE = "World-consistent video, judged in latent space"
PAPER_URL = "https://arxiv.org/abs/2603.26599"

EMPTY_STAGE_TITLE = "Nothing on the stage yet"
EMPTY_STAGE_HINT = "Write a prompt and press Generate, score a video of your own, or open an example from the Gallery."

EMPTY_COMPARE_TITLE = "Nothing to compare yet"
EMPTY_COMPARE_HINT = (
    "Press Compare: both sides get the same prompt and the same noise, one of them with an adapter or with reward "
    "guidance."
)
EMPTY_MANY_HINT = (
    "Both sides are judged on many prompts. Each reward then shows every video as a dot, and whether the difference is "
    "more than chance. A dot opens its prompt."
)
COMPARE_HINT = "The same prompt and noise on both sides, so every difference comes from the adapter or the guidance."
MANY_PROMPTS_HINT = "Scenes that no training has seen, from this seed on"
UPLOAD_HINT = "A LoRA in diffusers' format: .safetensors, at most {megabytes} MB, trained on this video model."

GALLERY_PAIRS = "Before and after"
GALLERY_PAIRS_INTRO = "The same prompt and the same noise, with and without an adapter. They open in Compare."
GALLERY_INTRO = "Example runs that ship with the page. They open at once, without loading a model."
GALLERY_EMPTY = "No example runs are installed. Generate a video, or put run folders under assets/examples."

PROMPT_PLACEHOLDER = "a red sphere and a blue cube on a grey checkered floor, the camera orbits left"
FIRST_FRAME_HINT = "The video starts from this picture. Its middle is cropped to the shape of the video."
OTHER_MODELS = "Not on this machine"
SCORE_HINT = (
    "Measure any clip: a video (.mp4, .webm, .mov) is read by the geometry model, a geometry.npz is scored as it is "
    "without any model, and a run's latents.safetensors are read by the latent geometry model."
)

GUIDANCE_HINT = (
    "Rewards steer the video while it is drawn; nothing is trained. Φ_g reads the scene at every n-th step, and the "
    "sample is pushed to where the camera moves more evenly and frames agree better. It costs several times the time: "
    "a gradient at every guided step, and the unguided video of the same seed to compare with."
)
GUIDANCE_REWARD = "Guiding reward"
GUIDANCE_NOTE = (
    "Scale {scale:g}, one step in {every}: {guided} guided, {skipped} left alone because nothing could be judged. The "
    "guiding reward is the mean of camera motion and geometry. Its judge is also its guide, so look at the video too."
)
GUIDANCE_COST = "Denoising took {guided:.1f} s with guidance and {unguided:.1f} s without."

UNKNOWN_WORDS = "Not in the embedded model's vocabulary, so it will ignore: {words}."

PHASES = {
    "load": "Load model",
    "text": "Read prompt",
    "denoise": "Denoise",
    "decode": "Decode video",
    "geometry": "Read geometry",
    "rewards": "Judge",
    "recording": "Record 3D",
}
"""Phases of a generation in order, as the progress line names them."""

WAITING = "{ahead} before you. This starts by itself; you can leave the tab open."
"""The progress line of a job that waits for its turn."""

COLOUR_NAMES = {"rgb": "RGB", "depth": "Depth", "error": "Reprojection error", "motion": "Static / moving"}

COLOUR_LEGENDS = {
    "rgb": "",
    "depth": "near · far",
    "error": "0 · 10 % of the scene's size",
    "motion": "still · moving",
}


ORIGINS = {
    "score-video": "Your video, geometry read from its frames",
    "score-geometry": "Your geometry",
    "score-latents": "Your latents",
}
"""Where a scored run's geometry comes from, by the manifest's ``kind``."""


@dataclass(frozen=True, kw_only=True)
class TermText:
    """What the page says about a reward or a guard."""

    label: str
    short: str
    tip: str
    brief: str = ""
    lowest: float = 0.0
    highest: float = 1.0


TERMS = {
    "motion_smoothness": TermText(
        label="Camera motion",
        brief="Camera",
        short="How steadily the camera moves and turns",
        tip="1 is a camera that never changes its speed; 0.5 is pure jitter. It looks at the recovered camera path "
        "only, so the size of the scene does not matter.",
        lowest=0.5,
    ),
    "geometry_consistency": TermText(
        label="Geometry",
        brief="Geometry",
        short="Whether all frames agree on one 3D scene",
        tip="Points of the other frames are projected into each frame and compared with its depth. The value is minus "
        "the mean error of the three worst frames, as a share of the scene's size: 0 is perfect, −0.05 means 5 % off.",
        lowest=-0.2,
        highest=0.0,
    ),
    "scene_smoothness": TermText(
        label="Scene motion",
        brief="Scene",
        short="Whether things move without jumps",
        tip="Scene points are followed from frame to frame. 1 means that everything keeps its speed, lower means that "
        "surfaces wobble or jump.",
        lowest=0.5,
    ),
}
"""Rewards by their name in ``rewards.json``."""

GUARDS = {
    "camera_path_length": TermText(
        label="Camera path",
        short="How far the camera travels, in scene sizes",
        tip="Not a reward. A frozen camera is trivially smooth and consistent, so look here before you trust a high "
        "score.",
    ),
    "dynamic_degree": TermText(
        label="Motion in the picture",
        short="How far pixels move a frame, as a share of the picture",
        tip="Not a reward. It counts the fastest twentieth of the pixels, moved by the camera or by themselves; 0 is "
        "a still image.",
    ),
    "moving_share": TermText(
        label="Moving objects",
        short="Share of the picture that moves through the world",
        tip="Not a reward. A model can win consistency by freezing every object; this shows whether anything still "
        "moves when the camera's own motion is taken away.",
    ),
}
"""Guards by their name in ``rewards.json``."""

DOWNLOADS = {
    "video.mp4": ("Video", "H.264, plays everywhere"),
    "scene.ply": ("Points .ply", "every point of every frame, with colour and frame number"),
    "scene.glb": ("Model .glb", "fused points and cameras for any 3D program"),
    "scene.viser": ("Recording .viser", "the 4D scene for viser's player"),
    "scene.html": ("Standalone HTML", "the 4D scene with its player, opens offline"),
    "rewards.csv": ("Rewards .csv", "every reward for every frame"),
    "geometry.npz": ("Geometry .npz", "cameras, depth, points, scene flow as arrays"),
}
"""Files of a run that the page offers, in order: file → (name, hint)."""

ABOUT = {
    "method": (
        "<h2>What this is</h2>"
        "<p>Text-to-video models draw convincing frames that do not always add up to one world: walls bend, cameras "
        "jitter, objects melt as the view moves on. <a href='{paper}'>Visual Geometry GRPO</a> (VGGRPO) tunes such a "
        "model with reinforcement learning. Its judge is a <em>latent</em> geometry model Φ<sub>g</sub>, which reads "
        "cameras, depth, points and scene flow straight from the video's latents, before any video is decoded.</p>"
        "<p>This page is an open implementation. You write a prompt, see the video, look around in the 4D scene that "
        "Φ<sub>g</sub> found in its latents, and follow every reward frame by frame. All views share one clock.</p>"
    ),
    "rewards": (
        "<h2>How to read the rewards</h2>"
        "<p>Higher is better everywhere. All of them are free of units: doubling the size of the world changes "
        "nothing. A value that could not be measured is shown as a dash with its reason, never as a good score.</p>"
    ),
    "tuning": (
        "<h2>Fine-tune, guide, compare</h2>"
        "<p><strong>Fine-tune</strong> runs VGGRPO. The model draws several videos of the same prompt; "
        "Φ<sub>g</sub> judges their latents; an adapter (a LoRA) learns from what set the better ones apart, and is "
        "held near the base model. Both of the paper's rewards are perfect for a camera that stands still, so a guard, "
        "ours and on by default, takes advantage from videos that move less than the base model's. A training is a "
        "process of its own: it survives this page, stops with a checkpoint, and goes on to the same numbers.</p>"
        "<p><strong>Reward guidance</strong> trains nothing. While a video is drawn, its latents are pushed along the "
        "gradient of the rewards at every n-th step. Each run tells the rewards of the same seed without and with it. "
        "Rewards jump where one surface passes before another, so expect small steps and not wonders.</p>"
        "<p><strong>Compare</strong> gives both sides the same prompt and the same noise, so every difference is the "
        "adapter's (or the guidance's) doing. One pair is an anecdote: over many prompts you get the mean difference "
        "and a 95 % interval. If that contains zero, nothing was shown. Look at the guards as well, and remember that "
        "Φ<sub>g</sub> is the trainer and the judge.</p>"
    ),
    "embedded": (
        "<h2>What the embedded model is, and is not</h2>"
        "<p>The model that ships with this page is small enough for a laptop's processor and was trained by this "
        "project's own commands, on a procedural world alone: a few solid shapes on a patterned floor under a moving "
        "camera. It is a genuine Wan video pipeline with a genuine Any4D-style geometry model, only small.</p>"
        "<p><strong>Its weights are rough so far.</strong> Colours and floors follow the prompt; shapes and camera "
        "moves do in more than half of the videos, and outlines are soft. "
        "The geometry model reads depth, field of view and the camera's way through a rendered world "
        "(turns are found too small, a pan is sometimes taken for a step aside), but has not learnt scene flow: "
        "nothing is marked as moving, so a moving object counts as an error of geometry. Read the rewards as a "
        "demonstration of the measurement, not as the last word on these videos.</p>"
        "<p><strong>What fine-tuning it brings.</strong> The adapter of the Gallery's pairs is 32 iterations of the "
        "defaults. Over 48 captions that it never saw, all three rewards rose by Φ<sub>g</sub>'s own reading, each "
        "interval clear of zero, and the camera went as far as before. The gains are small; the numbers and their "
        "commands are in the README. The figures below hold it against rivals, by judges that no training saw: where "
        "things move, its camera is calmer and its geometry fits a little better; some rivals gain more, one at the "
        "price of a shorter path and softer frames.</p>"
        "<ul><li>It knows nothing but the words below, and draws nothing but that world, at 128×128 pixels.</li>"
        "<li>Its geometry is an estimate, not the truth; errors you see in the scene may be the video's or the "
        "reader's.</li><li>It is here to make the method visible and testable on any machine, not to make beautiful "
        "video.</li></ul>"
    ),
    "released": (
        "<h2>The models that researchers use</h2>"
        "<p>Wan 2.1 (1.3 billion parameters) and Wan 2.2 (5 billion) go through the same code, with Any4D, VGGT or "
        "Depth Anything 3 as geometry model; they need a GPU, their weights, and a Φ<sub>g</sub> that "
        "<code>python -m vggrpo train-lgm</code> makes for them. Here they were run with small random models and "
        "checked against the released models' names and shapes; no released weights and no GPU were at hand. Under "
        "Generate, “Model” says which of them this server can draw.</p>"
    ),
    "api": (
        "<h2>Use it from Python</h2>"
        "<p>Everything here is also an endpoint: <code>Client(url).predict(prompt=…, api_name='/generate')</code> and "
        "<code>/score</code> return the run's name, its rewards and the addresses of its files; <code>/compare</code> "
        "returns a pair; <code>/finetune_start</code>, <code>/finetune_status</code>, <code>/finetune_stop</code> and "
        "<code>/finetune_resume</code> train. The footer's “Use via API” lists the parameters. On the command line it "
        "is <code>python -m vggrpo generate</code>, <code>score</code>, <code>compare</code>, <code>train</code>.</p>"
    ),
    "credits": (
        "<h2>Credits</h2>"
        "<p>Method: VGGRPO, <a href='{paper}'>arXiv 2603.26599</a>; this project is independent of its authors. Video "
        "pipeline: diffusers. Geometry architecture: Any4D. 3D player: viser. Curves: plotly. "
        "Licence of this project: Apache-2.0.</p>"
    ),
}
"""Prose of the About tab as trusted HTML."""

MEASURED_GEOMETRY = {
    "rotation_degrees": "Camera rotation error (°)",
    "still_rotation_degrees": "… if the camera were believed to stand (°)",
    "translation_direction_degrees": "Camera direction error (°)",
    "position_relative": "Camera position error (share of its way)",
    "depth_abs_rel": "Depth error (AbsRel)",
    "flow_relative_epe": "Scene flow error (relative)",
    "mask_iou": "Sky mask (IoU)",
}
"""Rows of the About tab's table: metric in the manifest → its name."""

WEIGHTS_TITLE = "What the embedded model draws, and how well it is read"
SHEET_CAPTION = (
    "Sixteen held-out prompts: the first, middle and last frame that the model draws, and beside them those of the "
    "world itself."
)
WEIGHTS_MEASURED = (
    "On {clips} held-out worlds and as many generated clips, by <code>python -m vggrpo evaluate assets</code>. The "
    "targets are what we want these weights to reach; ✓ marks what is reached."
)

ABOUT_GEOMETRY_MEASURED = (
    "Against the exact truth of the procedural world: Φ reads frames, Φ<sub>g</sub> reads latents. A direction error "
    "near 90°, or a position or flow error near 1, means that this quantity has not been learnt."
)
ABOUT_VAE_MEASURED = "The video autoencoder keeps {psnr} dB PSNR of a clip."
