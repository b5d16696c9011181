"""Seeds for every random choice, derived from what the choice is for and never from global state. No torch."""

import hashlib

_BITS = 63


def derive_seed(study_seed: int, ordinal: int, purpose: str, *more: int | str) -> int:
    """Returns a seed that depends on its arguments alone, in every process and on every machine.

    Args:
        study_seed: Seed of the study.
        ordinal: How many designs the study had proposed before this one; use 0 for choices of the
            whole study.
        purpose: What the random numbers are for: "sampler", "init", "batches", ...
        more: Whatever else tells two choices with the same purpose apart, for example a layer and a
            step.

    Returns:
        A whole number from 0 to 2**63 - 1, so that it fits a signed 64-bit integer.
    """
    content = repr((int(study_seed), int(ordinal), purpose, *more)).encode()
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BITS)
