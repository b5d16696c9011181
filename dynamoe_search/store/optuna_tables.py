"""Optuna's own tables, as far as this program reads and writes them; the one place that says what is in them.

Nobody else may lean on their layout: it is Optuna's, and `is_known` says whether it is still the one that is described.
"""

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.trial import TrialState

_LAYOUT = "v3.2.0.a"
"""Optuna's name for its layout of tables."""
_MAJOR = "5"
"""Version of Optuna that is known to mean by it what is written here: 4 kept times in local time."""

_metadata = sa.MetaData()
studies = sa.Table(
    "studies",
    _metadata,
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("study_name", sa.String(512)),
)
trials = sa.Table(
    "trials",
    _metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer),
    sa.Column("study_id", sa.Integer),
    sa.Column("state", sa.Enum(TrialState, name="trialstate")),
    sa.Column("datetime_start", sa.DateTime),
    sa.Column("datetime_complete", sa.DateTime),
)
params = sa.Table(
    "trial_params",
    _metadata,
    sa.Column("param_id", sa.Integer, primary_key=True),
    sa.Column("trial_id", sa.Integer),
    sa.Column("param_name", sa.String(512)),
    sa.Column("param_value", sa.Float(53)),
    sa.Column("distribution_json", sa.Text),
)
values = sa.Table(
    "trial_values",
    _metadata,
    sa.Column("trial_value_id", sa.Integer, primary_key=True),
    sa.Column("trial_id", sa.Integer),
    sa.Column("objective", sa.Integer),
    sa.Column("value", sa.Float(53)),
    sa.Column("value_type", sa.Enum("FINITE", "INF_POS", "INF_NEG", name="trialvaluetype")),
)
user_attributes, system_attributes = (
    sa.Table(
        f"trial_{kind}_attributes",
        _metadata,
        sa.Column(f"trial_{kind}_attribute_id", sa.Integer, primary_key=True),
        sa.Column("trial_id", sa.Integer),
        sa.Column("key", sa.String(512)),
        sa.Column("value_json", sa.Text),
    )
    for kind in ("user", "system")
)


def is_known(storage: RDBStorage) -> bool:
    """Says whether the tables that this version of Optuna makes and accepts are those that are described here.

    A database that cannot return the ids of new rows (SQLite before 3.35) is asked trial by trial too.
    """
    is_major = optuna.__version__.partition(".")[0] == _MAJOR
    can_return = storage.engine.dialect.insert_returning
    return is_major and can_return and storage.get_head_version() == _LAYOUT
