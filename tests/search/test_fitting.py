"""How many candidates are trained together on a GPU, by an estimate."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.data import describe
from dynamoe_search.search.estimate import candidate_bytes, largest_design
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
