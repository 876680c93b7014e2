"""VGGRPO Studio: reinforcement learning of world-consistent video models with latent geometry rewards.

An open implementation of Visual Geometry GRPO (arXiv 2603.26599). The folders are the paper's figure:
``latent_geometry`` is figure (a); ``policy``, ``rewards`` and ``grpo`` are figure (b) from left to right.
Importing this package imports nothing heavy and does no work.
"""

__version__ = "0.1.0"
