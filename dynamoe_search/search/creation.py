"""`create_study`: everything that could change a number is chosen here, once, and stored with the study."""

from dynamoe_search.data import load_data
from dynamoe_search.records import StudySettings
from dynamoe_search.search.estimate import largest_design, most_trials
from dynamoe_search.search.expert_backends import choose_backend, size_of
from dynamoe_search.search.fitting import fitting_cohort
from dynamoe_search.search.machine import default_threads, library_versions, resolve_device
from dynamoe_search.search.notes import notes
from dynamoe_search.search.objectives import reference_point_of
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store


def create_study(
    store: Store,
    spec: StudySpec,
    *,
    source: str,
    device: str = "auto",
    num_threads: int | None = None,
    trust_code: bool = False,
    is_device_here: bool = True,
) -> str:
    """Adds a study to the database and returns its name.

    Everything that could change a number is chosen here, once, and stored with the study.

    Args:
        store: The open database.
        spec: The study.
        source: The file or preset that it came from, for people.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        num_threads: CPU threads of torch; none means as many as torch would use.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.
        is_device_here: Whether this machine must have the device; if not, it is stored as it is named.

    Raises:
        DataError: The data cannot be read.
        DeviceError: This machine has no such device.
        SpecError: The file does not go with the data.
        UsageError: The name is taken, or the backbone cannot be imported.
    """
    space = Space(spec)
    resolved = resolve_device(device) if is_device_here else device
    data = load_data(spec.data)
    info = size_of(data)
    largest = largest_design(space, info, trust_code=trust_code)
    threads = num_threads or default_threads()
    choice = choose_backend(space, info, device=resolved, num_threads=threads)
    cohort_size, warning = fitting_cohort(spec, largest, info, resolved)
    settings = StudySettings(
        device=resolved,
        num_slots=space.num_slots,
        expert_backend=choice.backend,
        backend_basis=choice.basis,
        num_threads=threads,
        cohort_size=cohort_size,
        reference_point=reference_point_of(
            spec, data, max_params=largest.parameters, max_flops=largest.flops_per_token
        ),
        versions=library_versions(),
        data_hash=data.data_hash,
    )
    worth_knowing = tuple(notes(space, info, most_trials(space)))
    worth_knowing += () if warning is None else (warning,)
    store.create_study(spec, source=source, settings=settings, notes=worth_knowing)
    return spec.study.name
