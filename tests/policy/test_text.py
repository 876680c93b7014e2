"""Prompts become what ``WanPipeline`` makes of them, although the encoder reads no padding."""

from pathlib import Path

import torch
from diffusers import WanPipeline

from vggrpo.policy.backbone import encode_text

PROMPTS = ["a red sphere on a grey tiled floor", "", "a blue cube and a green cone on a beige dotted floor"]
MAX_TOKENS = 64


def test_embeddings_of_a_batch_are_those_of_the_pipeline(pipeline_folder: Path) -> None:
    """The longest prompt decides how far the encoder reads; all are padded with zeros to the full length."""
    pipeline = WanPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    with torch.no_grad():
        embedded = encode_text(pipeline.tokenizer, pipeline.text_encoder, PROMPTS, max_tokens=MAX_TOKENS)
        theirs, _ = pipeline.encode_prompt(
            PROMPTS, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS, device=torch.device("cpu")
        )
    assert embedded.shape == (3, MAX_TOKENS, theirs.shape[-1])
    torch.testing.assert_close(embedded, theirs, rtol=1e-5, atol=1e-5)
    assert embedded[2].abs().sum(dim=-1).gt(0).sum() > embedded[0].abs().sum(dim=-1).gt(0).sum() > 1
