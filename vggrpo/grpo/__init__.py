"""FIGURE (b), right: rewards become advantages, advantages update the policy."""
