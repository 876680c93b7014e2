"""Seeds from seeds: every random number of a run is a function of a few whole numbers."""

import numpy as np


def derived_seed(*numbers: int) -> int:
    """One number of 63 bits from several: neighbours in any of them give unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
