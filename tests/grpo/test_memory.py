"""Memory: running out of it is one line that names a setting; what is not needed leaves; options keep ratio 1."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from tests.grpo.test_trainer import logged, state
from tests.grpo.toy import CONFIG, SHAPE, Brightness, embed, make_models, run
from vggrpo.grpo import policy_gradient
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.memory_errors import memory_advice, naming_the_setting
from vggrpo.policy.rollout import collect
from vggrpo.runtime.checkpoint_folder import checkpoint_folders
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to …")


def failing(work: Callable[..., object], *, after: int, error: BaseException) -> Callable[..., object]:
    """``work``, which runs out of memory from its call number ``after`` on."""
    calls = []

    def run_out(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) > after:
            raise error
        return work(*arguments, **options)

    return run_out


@pytest.mark.parametrize(
    ("phase", "error", "words"),
    [
        ("rollout", CUDA, "out of memory in the rollout: give a lower --micro-batch than 4"),
        ("reward", MemoryError(), "out of memory in the reward: give a lower --reward-batch than 8"),
        ("update", CPU, "out of memory in the update: switch --gradient-checkpointing on"),
    ],
)
def test_out_of_memory_is_one_line_and_the_run_goes_on_with_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, error: BaseException, words: str
) -> None:
    """In the second iteration; then with the setting that the line names."""
    rewards = Brightness()
    with monkeypatch.context() as broken:
        if phase == "rollout":
            broken.setattr(policy_gradient, "collect", failing(policy_gradient.collect, after=2, error=error))
        elif phase == "update":
            broken.setattr(policy_gradient, "replay", failing(policy_gradient.replay, after=4, error=error))
        else:
            rewards.before = failing(lambda _: None, after=1, error=error)
        with pytest.raises(UserError, match=words) as caught:
            run(tmp_path, CONFIG, models=make_models(rewards))
    assert "\n" not in str(caught.value)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "failed"
    assert words in status["message"]
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-000001"]
    less = replace(CONFIG, micro_batch=2, gradient_checkpointing=True, reward_batch=1, iterations=2)
    assert run(tmp_path, less, resume=True).finished


def test_other_errors_are_not_called_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"), naming_the_setting("update", CONFIG):
        raise RuntimeError("shapes cannot be multiplied")


def test_what_is_at_its_least_is_not_named() -> None:
    least = replace(CONFIG, micro_batch=1, reward_batch=1, gradient_checkpointing=True, guidance=4.0)
    assert memory_advice("update", least).startswith("give --guidance-passes apart")
    assert memory_advice("reward", replace(least, reward_space="rgb")).startswith("give --reward-space latent")
    for phase in ("rollout", "guard", "reward", "update", "evaluate", "samples", "refresh", "load"):
        assert memory_advice(phase, replace(least, guidance_passes="apart", dense_frames=1))


@dataclass
class Ledger:
    """What was asked of text encoder and VAE, in order."""

    events: list[str] = field(default_factory=list)

    def embed(self, prompt: str) -> torch.Tensor:
        self.events.append(prompt)
        return embed(prompt)

    def note(self, event: str) -> Callable[[], None]:
        return lambda: self.events.append(event)


def test_text_encoder_and_decoder_leave(tmp_path: Path) -> None:
    """Everything is embedded before the encoder leaves; the VAE leaves after every set of samples."""
    ledger, seen = Ledger(), Brightness()
    models = replace(
        make_models(seen), embed=ledger.embed, release_text=ledger.note("text"), release_decoder=ledger.note("vae")
    )
    run(tmp_path, replace(CONFIG, evaluate_every=2, sample_every=2), models=models)
    left = ledger.events.index("text")
    before, after = set(ledger.events[:left]), set(ledger.events[left + 1 :]) - {"vae"}
    assert after
    assert after <= before
    assert before == {"one", "two", "three", "four", "five"}
    assert ledger.events.count("vae") == 2


def test_states_wait_in_main_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every group's states move there before anything is judged (here all is on the CPU, so the calls are counted)."""
    moved: list[torch.device] = []
    move = policy_gradient.Rollout.to

    def to(rollout: policy_gradient.Rollout, device: torch.device) -> policy_gradient.Rollout:
        moved.append(device)
        return move(rollout, device)

    monkeypatch.setattr(policy_gradient.Rollout, "to", to)
    rewards = Brightness(before=failing(lambda _: None, after=0, error=CUDA))
    with pytest.raises(UserError, match="out of memory in the reward"):
        run(tmp_path, CONFIG, models=make_models(rewards))
    assert moved == [torch.device("cpu")] * CONFIG.groups


OPTIONS = {
    "guidance in two passes": replace(CONFIG, guidance=4.0, guidance_passes="apart"),
    "attention written out": replace(CONFIG, attention="math"),
    # Two programs are compiled, with autograd and without; inductor takes minutes on a CPU (tried by hand: README).
    "compiled": replace(CONFIG, compile="aot_eager", kl="none", groups=1),
}


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_options_keep_the_ratio_at_one(tmp_path: Path, config: GrpoConfig) -> None:
    models = make_models()
    if config.compile != "off":
        # What is compiled is a block; one is enough.
        models.transformer.blocks = models.transformer.blocks[:1]
    run(tmp_path, replace(config, iterations=1), models=models)
    assert logged(tmp_path)[-1]["ratio/on_policy_abs_dev_max"] == 0.0
    assert state(tmp_path, 1)
    # The models come back as they were.
    assert all(block._compiled_call_impl is None for block in models.transformer.blocks)


def test_compiled_window_steps_are_drawn_as_they_are_replayed() -> None:
    """With autograd on, in the window only; without compiling it makes no difference to any number."""
    models = make_models()
    seen: list[bool] = []
    models.transformer.register_forward_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    conditions = models.conditions("one", guidance=1.0)
    plain, compiled = (replace(CONFIG, compile=name).rollout_settings for name in ("off", "inductor"))
    drawn = [
        collect(models.transformer, conditions, settings, shape=SHAPE, group=0, seed=3, count=2)
        for settings in (plain, compiled)
    ]
    start, size = drawn[1].window_start, CONFIG.window_size
    window = [start <= step < start + size for step in range(CONFIG.steps)]
    assert seen == [False] * CONFIG.steps + window
    assert torch.equal(drawn[0].log_prob, drawn[1].log_prob)
    assert torch.equal(drawn[0].latents.tensor, drawn[1].latents.tensor)
    assert not drawn[1].mean.requires_grad


def test_two_passes_are_one_batch_up_to_rounding(tmp_path: Path) -> None:
    for passes in ("together", "apart"):
        run(tmp_path / passes, replace(CONFIG, guidance=4.0, guidance_passes=passes, iterations=2))
    left, right = state(tmp_path / "together", 2), state(tmp_path / "apart", 2)
    assert all(torch.allclose(left[name], right[name], rtol=1e-3, atol=1e-6) for name in left)


def test_a_kernel_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--attention cudnn cannot be used on cpu"):
        run(tmp_path, replace(CONFIG, attention="cudnn"))


def test_ratio_norm_with_a_range_that_never_clips_is_doubted() -> None:
    assert "--clip-range 2e-6" in replace(CONFIG, ratio_norm=True, clip_range=1e-3).doubts[0]
    assert replace(CONFIG, ratio_norm=True, clip_range=2e-6).doubts == ()
    assert CONFIG.doubts == ()


def test_the_guard_asks_for_the_camera_path_alone(tmp_path: Path) -> None:
    """The base's videos are measured, not judged: two judgings of two groups of four, and the guard's own."""
    paths: list[int] = []

    class Measuring(Brightness):
        def camera_path_length(self, latents: Latents) -> torch.Tensor:
            paths.append(len(latents.tensor))
            return torch.ones(len(latents.tensor))

    rewards = Measuring()
    run(tmp_path, replace(CONFIG, iterations=2, motion_guard=1.0), models=make_models(rewards))
    assert rewards.judged == [8, 8]
    assert paths == [CONFIG.guard_clips * CONFIG.groups] * 2
