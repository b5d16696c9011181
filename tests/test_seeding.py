"""Seeds depend on what they are for, and on nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.seeding import derive_seed

PARTS = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.text(max_size=8), st.integers(0, 10**6)
)


def test_it_is_the_same_number_in_every_process_and_release() -> None:
    assert derive_seed(0, 0, "init") == derive_seed(0, 0, "init")
    assert derive_seed(7, 3, "batches", 2, "x") == 537879656631065407


@given(PARTS, PARTS)
def test_different_purposes_have_different_seeds(
    one: tuple[int, int, str, int], other: tuple[int, int, str, int]
) -> None:
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


@given(PARTS)
def test_it_fits_a_signed_64_bit_integer(parts: tuple[int, int, str, int]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


def test_a_number_and_its_text_are_different_purposes() -> None:
    assert derive_seed(0, 0, "layer", 1) != derive_seed(0, 0, "layer", "1")
