"""The memory of the program: studies, candidates, results and fronts in a database that Optuna's tools open too.

A study is kept twice in one file: in Optuna's own tables, so that `optuna.load_study` and optuna-dashboard work,
and in tables `dynamoe_*` with what Optuna has no place for. Our rows are written first and Optuna is told after
them; `Store.replay_tells` repairs what a crash in between left open.
"""

from dynamoe_search.credentials import masked
from dynamoe_search.store import checks
from dynamoe_search.store.addresses import default_url
from dynamoe_search.store.candidates import CandidateMethods
from dynamoe_search.store.checks import Finding
from dynamoe_search.store.copying import CopyMethods
from dynamoe_search.store.evidence import EvidenceMethods
from dynamoe_search.store.legs import Pulse
from dynamoe_search.store.optuna_studies import quiet_optuna
from dynamoe_search.store.overview import Happening, OpenLeg, Overview, Place
from dynamoe_search.store.problems import PassingError
from dynamoe_search.store.so_far import Provisional, front_so_far
from dynamoe_search.store.trials import Addition
from dynamoe_search.store.work import WorkMethods

__all__ = [
    "Addition",
    "Finding",
    "Happening",
    "OpenLeg",
    "Overview",
    "PassingError",
    "Place",
    "Provisional",
    "Pulse",
    "Store",
    "default_url",
    "masked",
    "quiet_optuna",
]


class Store(CopyMethods, CandidateMethods, WorkMethods, EvidenceMethods):
    """An open database of studies; a context manager. Use `Store.open`.

    Every method is a short transaction of its own. All raise `StorageError` if the database cannot be used, and
    those that take the name of a study raise `UsageError` if there is none of that name.
    """

    def front_so_far(self, name: str) -> list[Provisional]:
        """Returns who is on the front if whoever is on the way counts with its last report, see `so_far`.

        Raises:
            UsageError: An objective of the study is only known when a training ends.
        """

        def read() -> list[Provisional]:
            candidates = self.candidates(name, status=("complete", "paused", "running"))
            return front_so_far(self.study(name), candidates, self.progress(name))

        return self.at_one_moment(read)

    def check(self, name: str | None = None) -> list[Finding]:
        """Looks for what is wrong with the database and with one study or all; changes nothing."""
        return checks.check(self._database, self._optuna, self._watcher, name)
