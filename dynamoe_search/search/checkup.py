"""`check_study`: whether a study's database, files and data are in order, and how to mend what is not."""

from collections.abc import Iterator

from dynamoe_search.data import SearchData
from dynamoe_search.errors import DynamoeError
from dynamoe_search.places import PlaceError
from dynamoe_search.records import StudyRecord
from dynamoe_search.search import weights
from dynamoe_search.search.machine import train_settings
from dynamoe_search.search.same_data import load_same_data
from dynamoe_search.search.shared_files import is_here, missing
from dynamoe_search.search.study_files import StudyFiles
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Finding, Store
from dynamoe_search.training import DamagedError
from dynamoe_search.wording import counted


def check_study(store: Store, name: str, *, trust_code: bool = False) -> list[Finding]:
    """Returns what is wrong with a study, or that it is in order; changes nothing.

    Args:
        store: The open database.
        name: The study.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.

    Raises:
        UsageError: There is no such study.
    """
    found = store.check(name)
    if any(one.level == "error" for one in found):
        return found
    study, folder, mark = store.study(name), store.files_of(name), store.files_mark(name)
    if mark is not None and not is_here(folder, mark):
        what, _, advice = missing(folder, mark).partition("; ")
        return [*found, Finding(level="error", what=what, how_to_mend=advice)]
    try:
        data = load_same_data(study)
    except DynamoeError as error:
        return [*found, Finding(level="error", what=str(error), how_to_mend="put the data back")]
    return [
        *found,
        *(list(_of_files(store, study, data, trust_code)) or [_files_are_fine(store, study)]),
    ]


def _files_are_fine(store: Store, study: StudyRecord) -> Finding:
    num_paused = len(store.candidates(study.name, status=("paused",)))
    models, waiting = counted(study.num_front, "model"), counted(num_paused, "candidate")
    what = f"the weights of {models} and the checkpoints of {waiting} are there"
    return Finding(level="ok", what=what)


def _of_files(
    store: Store, study: StudyRecord, data: SearchData, trust_code: bool
) -> Iterator[Finding]:
    spec = StudySpec.model_validate_json(study.spec_json)
    try:
        settings = train_settings(spec, study.settings, trust_code=trust_code)
    except DynamoeError as error:
        yield Finding(level="error", what=str(error), how_to_mend="go on where the study began")
        return
    files = StudyFiles(store.files_of(study.name))
    for one in store.candidates(study.name, status=("paused",)):
        try:
            files.states.load(one.candidate, one.epochs, one.checkpoint, data, settings)
        except DamagedError as error:
            yield Finding(
                level="warning",
                what=f"trial {one.trial} waits at epoch {one.epochs}, but {error}",
                how_to_mend="nothing to do: if it goes on, it is trained again up to there, to the same numbers",
            )
    for leg in store.legs(study.name, state="open"):
        for reason in files.of_leg(leg).damaged():
            yield Finding(
                level="warning",
                what=f"a checkpoint of leg {leg.number} cannot be used: {reason}",
                how_to_mend="nothing to do: the one before is used, or the leg starts again",
            )
    members = [member.trial for member in store.front(study.name)]
    for one in store.candidates(study.name, trials=members, with_routing=False):
        try:
            is_there = weights.load(files.models, one.trial, one.weights) is not None
        except PlaceError:
            raise
        except DynamoeError:
            is_there = False
        if not is_there:
            yield Finding(
                level="warning",
                what=f"the weights of trial {one.trial}, which is on the front, are missing or damaged",
                how_to_mend="nothing to do: export trains it again, to the same numbers",
            )
