"""How many candidates are trained together on a GPU, by an estimate."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.data import describe
from dynamoe_search.search.estimate import candidate_bytes, largest_design, pass_bytes
from dynamoe_search.search.fitting import cuda_bytes, fitting_cohort, most_that_fit
from dynamoe_search.search.planner import most_in_leg
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec

MakeSpec = Callable[..., StudySpec]
COUNTS = st.integers(1, 1024)
BYTES = st.integers(0, 2**40)


@given(asked=COUNTS, free=BYTES, each=st.integers(1, 2**36), shared=BYTES)
def test_no_more_than_asked_for_and_no_more_than_fit(
    asked: int, free: int, each: int, shared: int
) -> None:
    found = most_that_fit(asked, free, each, shared)
    assert 1 <= found <= asked
    assert found == 1 or shared + most_in_leg(found) * each <= free
    assert most_that_fit(asked, free + each, each, shared) >= found


def test_the_cpu_takes_what_is_asked_for_and_a_gpu_needs_more(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(search={"cohort_size": 7})
    info = describe(spec.data)
    largest = largest_design(Space(spec), info)
    assert fitting_cohort(spec, largest, info, "cpu") == (7, None)
    assert cuda_bytes(spec, largest) > candidate_bytes(spec, largest)


def test_a_gpu_has_room_for_a_recorded_step_beside_a_usual_one(tiny_spec: MakeSpec) -> None:
    """What grows with the batch is there twice; of a parameter there are weight, moments and their copies besides."""
    small, large = (tiny_spec(train={"batch_size": size}) for size in (8, 16))
    largest = largest_design(Space(small), describe(small.data))
    passes = [pass_bytes(spec, largest) for spec in (small, large)]
    whole = [cuda_bytes(spec, largest) for spec in (small, large)]
    assert whole[1] - whole[0] > 2 * (passes[1] - passes[0])
    weight, moments, gradients, low = 4, 8, 2 * 4, 2 * 4
    copies = 3 * (weight + moments)
    per_parameter = weight + moments + gradients + low + copies
    more = replace(largest, parameters=largest.parameters + 1000)
    assert cuda_bytes(small, more) - whole[0] == 1000 * per_parameter
