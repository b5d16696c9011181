"""The data of a stored study, refused if they have changed since it began."""

from dynamoe_search.data import SearchData, load_data
from dynamoe_search.errors import DataError
from dynamoe_search.records import StudyRecord
from dynamoe_search.specs import StudySpec


def load_same_data(study: StudyRecord) -> SearchData:
    """Returns the training and the validation part that a study began with.

    Raises:
        DataError: They cannot be read, or differ in a shape, a pixel, a label or their division.
    """
    section = StudySpec.model_validate_json(study.spec_json).data
    data = load_data(section)
    known = study.settings.data_hash
    if known and known != data.data_hash:
        raise DataError(
            f"the data in {data.source} are not those that the study {study.name!r} began with "
            f"(now {len(data.train.y):,} training and {len(data.validation.y):,} validation "
            "examples); put the old ones back, or start another study"
        )
    return data
