"""Pure maths on cameras C, depth D, points P and scene flow F: batched torch, differentiable, on any device."""
