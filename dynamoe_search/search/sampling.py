"""Which design to propose next: a pure function of the study's seed and of earlier proposals.

Optuna's samplers look at a study. Ours look at a *shadow*: a study in memory that is rebuilt from
the database, in which every earlier proposal stands with its values, or as running. Each ask gets a
freshly seeded sampler, so that a resumed study asks what the uninterrupted one would have asked,
and a killed process leaves no half-suggested trial behind.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from dynamoe_search.records import Candidate, CandidateRecord
from dynamoe_search.search.designs import Params, candidate_from, setting
from dynamoe_search.search.distributions import middle_value, suggest_from
from dynamoe_search.search.objectives import directions
from dynamoe_search.search.quick_tpe import Memory
from dynamoe_search.search.references import ReferenceDesign, reference_designs
from dynamoe_search.search.samplers import GroupedTPESampler, PointSampler
from dynamoe_search.search.shadows import Shadow, Stands
from dynamoe_search.search.space import Space, suggest
from dynamoe_search.seeding import derive_seed
from dynamoe_search.store import quiet_optuna

NUM_ATTEMPTS = 32  # with the study's sampler, until a design is new
NUM_RANDOM_ATTEMPTS = 200  # after that, until the space counts as exhausted
_GENERATION = "NSGAIISampler:generation"  # Optuna's own key for the generation of a trial

_State = Literal["running", "complete", "failed"]
_STATES = {"running": TrialState.RUNNING, "complete": TrialState.COMPLETE}
_KNOWN_AS: dict[str, _State] = {
    "running": "running",
    "paused": "failed",  # without values
    "complete": "failed",  # likewise
    "failed": "failed",
    "stopped": "failed",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known of an earlier proposal."""

    ordinal: int
    params: Mapping[str, Any]
    design_hash: str
    is_in_space: bool  # False for a reference design that the space does not contain
    state: _State
    values: tuple[float, ...] | None = None  # in the order of the study's objectives, if complete
    violations: Mapping[str, float] = field(default_factory=dict)  # above 0 is infeasible
    sampler_state: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: CandidateRecord, space: Space) -> "Known":
        """Returns what a stored candidate tells the samplers."""
        is_complete = record.status == "complete" and record.values is not None
        names = space.spec.study.constraints
        return cls(
            ordinal=record.ordinal,
            params=record.params,
            design_hash=record.candidate.design_hash,
            is_in_space=record.candidate.reference is None
            or space.contains(record.candidate, record.params),
            state="complete" if is_complete else _KNOWN_AS[record.status],
            values=_in_order(record, space.spec.study.objectives),
            violations=dict(zip(names, record.violations, strict=True)) if is_complete else {},
            sampler_state=record.sampler_state,
        )

    def with_values(self, values: tuple[float, ...], violations: Mapping[str, float]) -> "Known":
        """Returns it as if it had finished with these values."""
        return replace(self, state="complete", values=values, violations=violations)

    def without_values(self) -> "Known":
        """Returns it as one that is known, and says nothing about values."""
        return replace(self, state="failed", values=None, violations={})


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A design to train next, with what Optuna and later proposals need to know of it."""

    candidate: Candidate
    params: Params
    distributions: dict[str, BaseDistribution]
    sampler_state: dict[str, Any] = field(default_factory=dict)


class Proposer:
    """Proposes designs one after another; each sees those before it.

    Args:
        space: The space of the study.
        known: All earlier proposals of the study, in the order of their ordinals.
        stands: Of earlier proposers of the same study; it gets what is made here.
        who: Tells those apart who propose at the same time: TPE draws differently for each. Empty for one alone.
    """

    def __init__(
        self,
        space: Space,
        known: Iterable[Known] = (),
        stands: Stands | None = None,
        who: str = "",
    ) -> None:
        self._space = space
        self._who = (who,) if who else ()
        self._stands = Stands() if stands is None else stands
        self._kind = space.spec.search.sampler
        self._hashes: set[str] = set()
        self._num_in_space = 0
        self._next_ordinal = 0
        self._next_point = 0
        self._references = reference_designs(space)
        self._is_primed = self._kind != "nsga2"
        self._shadow = Shadow(directions(space.spec))
        self._tpe: GroupedTPESampler | None = None
        for proposal in known:
            self.add(proposal)

    def add(self, known: Known) -> None:
        """Takes note of a proposal that was made before; ordinals must rise."""
        assert known.ordinal >= self._next_ordinal
        self._next_ordinal = known.ordinal + 1
        self._next_point = max(self._next_point, known.sampler_state.get("point", -1) + 1)
        if known.is_in_space and known.design_hash not in self._hashes:
            self._num_in_space += 1
        self._hashes.add(known.design_hash)
        if known.is_in_space and known.state != "failed":
            self._stand(known)

    def propose(self) -> Proposal | None:
        """Returns a design that was not proposed before, None if there seems to be none left.

        Reference designs come first. The proposal counts as running from then on.
        """
        ordinal = self._next_ordinal
        if ordinal < len(self._references):
            return self._propose_reference(self._references[ordinal])
        if self._space.size is not None and self._num_in_space >= self._space.size:
            return None
        for attempt in range(NUM_ATTEMPTS + NUM_RANDOM_ATTEMPTS):
            params, state = self._draw(ordinal, attempt)
            candidate = candidate_from(params, self._space.spec, ordinal)
            if candidate.design_hash in self._hashes:
                continue
            return self._proposed(candidate, params, state, is_in_space=True)
        return None

    def _propose_reference(self, design: ReferenceDesign) -> Proposal:
        candidate, params = design.candidate, design.params
        is_in_space = self._space.contains(candidate, params)
        return self._proposed(candidate, params, {}, is_in_space=is_in_space)

    def _proposed(
        self, candidate: Candidate, params: Params, state: dict[str, Any], *, is_in_space: bool
    ) -> Proposal:
        self.add(
            Known(
                ordinal=candidate.ordinal,
                params=params,
                design_hash=candidate.design_hash,
                is_in_space=is_in_space,
                state="running",
                sampler_state=state,
            )
        )
        return Proposal(
            candidate=candidate,
            params=params,
            distributions=self._space.distributions_of(params),
            sampler_state=state,
        )

    def _stand(self, known: Known) -> None:
        """Puts a proposal into the shadow study."""
        if known.state == "complete":
            self._tpe = None  # it may be of a new kind
        self._shadow.add(self._stands.trial(known.ordinal, known, lambda: self._trial_of(known)))

    def _trial_of(self, known: Known) -> FrozenTrial:
        params = {**known.params, **self._dormant(known)}
        state = known.sampler_state
        system = {_GENERATION: state.get("generation", 0)} if self._kind == "nsga2" else {}
        now = datetime.now(UTC).replace(tzinfo=None)
        trial = FrozenTrial(  # Optuna's `create_trial` would look at every value once more
            number=-1,
            trial_id=-1,
            state=_STATES[known.state],
            value=None,
            values=None if known.values is None else [float(value) for value in known.values],
            datetime_start=now,
            datetime_complete=now if known.state == "complete" else None,
            params=params,
            distributions=self._space.distributions_of(params),
            user_attrs={},
            system_attrs=system,
            intermediate_values={},
        )
        for name, excess in known.violations.items() if known.values is not None else ():
            trial.set_constraint(name, excess)
        return trial

    def _dormant(self, known: Known) -> Params:
        """NSGA-II crosses whole designs: settings that do not apply to one are kept beside it."""
        if self._kind != "nsga2":
            return {}
        kept = known.sampler_state.get("dormant", {})
        return {
            path: kept.get(path, middle_value(setting(self._space.spec, path)))
            for path in self._space.distributions
            if path not in known.params
        }

    def _draw(self, ordinal: int, attempt: int) -> tuple[Params, dict[str, Any]]:
        """Returns one draw of the sampler with the state to keep for later proposals."""
        self._prime()
        self._shadow.study.sampler = self._sampler(ordinal, attempt)
        trial = self._shadow.study.ask()
        if self._kind == "nsga2":
            drawn = self._draw_whole(trial)
        elif self._kind == "qmc" and attempt < NUM_ATTEMPTS:
            drawn = suggest(trial, self._space.spec), {"point": self._next_point + attempt}
        else:
            drawn = suggest(trial, self._space.spec), {}
        # No sampler looks at failed trials: the draw leaves no trace until `_stand` adds it.
        self._shadow.study.tell(trial, state=TrialState.FAIL)
        return drawn

    def _prime(self) -> None:
        """Lets NSGA-II choose its parents, once.

        It keeps them for a generation, but in another order than that in which it first uses them;
        the first draw of a rebuilt shadow would differ from the same draw of one that lived on.
        """
        if not self._is_primed:
            self._is_primed = True
            self._draw(0, 0)

    def _draw_whole(self, trial: Trial) -> tuple[Params, dict[str, Any]]:
        space = self._space
        for path, distribution in space.distributions.items():
            suggest_from(trial, path, distribution)
        params = suggest(trial, space.spec)
        frozen = self._shadow.study.get_trials(deepcopy=False)[trial.number]
        generation = frozen.system_attrs.get(_GENERATION)
        if generation is None:  # a random draw belongs to the generation that is being made
            generation = self._generation()
        dormant = {path: value for path, value in frozen.params.items() if path not in params}
        return params, {"generation": generation, "dormant": dormant}

    def _generation(self) -> int:
        states = (TrialState.RUNNING, TrialState.COMPLETE)
        trials = self._shadow.study.get_trials(deepcopy=False, states=states)
        return max((trial.system_attrs.get(_GENERATION, 0) for trial in trials), default=0)

    def _sampler(self, ordinal: int, attempt: int) -> BaseSampler:
        study, search = self._space.spec.study, self._space.spec.search
        seed = derive_seed(study.seed, ordinal, "sampler", attempt, *self._who) % 2**32
        if self._kind == "random" or attempt >= NUM_ATTEMPTS:
            return RandomSampler(seed=seed)
        if self._kind == "nsga2":
            return NSGAIISampler(population_size=max(2, search.startup_trials), seed=seed)
        if self._kind == "qmc":
            scramble = derive_seed(study.seed, 0, "qmc")
            return PointSampler(self._space.distributions, self._next_point + attempt, scramble)
        if self._tpe is None:
            self._tpe = self._tpe_sampler()
        self._tpe.seed(seed)
        return self._tpe

    def _tpe_sampler(self) -> GroupedTPESampler:
        with quiet_optuna():
            return GroupedTPESampler(
                self._shadow.kinds,
                Memory(),
                n_startup_trials=self._space.spec.search.startup_trials,
                multivariate=True,
                constant_liar=True,
            )


def _in_order(record: CandidateRecord, objectives: Sequence[str]) -> tuple[float, ...] | None:
    if record.values is None:
        return None
    return tuple(record.values[name] for name in objectives)
