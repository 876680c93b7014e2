"""FIGURE (b), left: the video diffusion transformer as a policy — backbone, noise schedule, sampling."""
