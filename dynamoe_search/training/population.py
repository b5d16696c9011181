"""`Population`: a cohort of candidates in training. A single candidate is a population of one.

Everything that differs between candidates is a vector over them (learning rate, weight decay, loss weights, clipping);
everything else is shared (batches and their order). Losses are summed over candidates, and since candidates share no
parameter, each gets its own gradient: nothing mixes them, so a NaN stays with its candidate.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dynamoe_search.data import SearchData
from dynamoe_search.moe.accounting import ParameterCounts, count_parameters
from dynamoe_search.moe.asynchrony import sent
from dynamoe_search.moe.backbones import build_model
from dynamoe_search.moe.losses import auxiliary_losses, sparsity_penalty
from dynamoe_search.moe.routing import Chosen, Routing
from dynamoe_search.moe.threads import one_thread
from dynamoe_search.records import Candidate, Progress
from dynamoe_search.seeding import derive_seed
from dynamoe_search.specs.vocabulary import LOSS_NAMES
from dynamoe_search.training.adaptation import Adaptation
from dynamoe_search.training.batches import augment, data_on, epoch_order
from dynamoe_search.training.cohort import Cohort
from dynamoe_search.training.evaluation import Evaluation, evaluate
from dynamoe_search.training.failures import check_alike
from dynamoe_search.training.graphs import Steps
from dynamoe_search.training.modes import choose_mode
from dynamoe_search.training.optimizers import StackedAdamW
from dynamoe_search.training.parts import is_small
from dynamoe_search.training.rooms import Rooms
from dynamoe_search.training.settings import TrainSettings
from dynamoe_search.training.states import CandidateState, load_states, states_of
from dynamoe_search.training.step_inputs import Rates, Streams
from dynamoe_search.training.token_losses import cross_entropy, head_gradients


class Population:
    """Candidates of one pack key, in training.

    Attributes:
        candidates: Those still in training, in the order of the cohort's positions.
        epoch: Epochs finished.
        batch: Steps made in the epoch that has begun; 0 between two epochs.
        step: Steps made in all.

    Args:
        candidates: At least one; equal `pack_key`.
        data: On any device; not copied if it is on the training device already.
        settings: See `TrainSettings`.
        states: Where each candidate stands, in the same order; none for new ones.
        weights: The `state_dict` of each candidate's plain module, in the same order, in place of its initial weights:
            to look at finished candidates.

    Raises:
        DamagedError: if a state does not fit its candidate's network.
        ValueError: if the states are of different steps or of other candidates.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        data: SearchData,
        settings: TrainSettings,
        states: Sequence[CandidateState] = (),
        weights: Sequence[Mapping[str, Tensor]] = (),
    ) -> None:
        self.settings = settings
        self.device = _current(torch.device(settings.device))
        self.data = data_on(data, self.device)
        self.candidates = list(candidates)
        self.models = [
            build_model(
                candidate, data.input_shape, data.num_classes, trust_code=settings.trust_code
            )
            for candidate in self.candidates
        ]
        for model, own in zip(self.models, weights, strict=bool(weights)):
            model.load_state_dict(own)
        check_alike(self.models)
        members = self._with_ghost(list(range(len(self.candidates))))
        self.cohort = Cohort(
            [self.models[position] for position in members],
            num_slots=settings.num_slots,
            device=self.device,
            backend=settings.expert_backend,
        )
        self._is_small = is_small(self.candidates[0], data.input_shape, self.device)
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.is_finite = torch.ones(len(members), dtype=torch.bool, device=self.device)
        self.train_loss = torch.zeros(len(members), device=self.device)
        self.loss_sum = torch.zeros(len(members), device=self.device)  # in the epoch so far
        self._batches: tuple[Tensor, ...] = ()  # of the epoch that has begun
        choose_mode(self.cohort, self.models, self.data.train.x[:2])
        self._counts: dict[int, tuple[list[list[bool]], ParameterCounts]] = {}  # by ordinal
        self._make_vectors(members)
        self.optimizer = self._make_optimizer(members)
        self.adaptation = Adaptation(
            [self.candidates[position] for position in members], self.cohort, self.optimizer
        )
        self._make_inputs()
        if states:
            load_states(self, states)

    def _with_ghost(self, positions: list[int]) -> list[int]:
        """A cohort never has fewer than two members: a lone candidate is accompanied by a copy."""
        return positions * 2 if len(positions) == 1 else positions

    def _member(self, position: int) -> Candidate:
        """The candidate at a position of the cohort, where a ghost is a copy of the first."""
        return self.candidates[position if position < len(self.candidates) else 0]

    def _make_vectors(self, members: Sequence[int]) -> None:
        self.loss_weights: dict[str, Tensor] = {}
        own = [self.candidates[position] for position in members]
        for name in LOSS_NAMES:
            weights = [getattr(candidate.losses, name) for candidate in own]
            if any(weights):
                self.loss_weights[name] = torch.tensor(weights, device=self.device)
        self.normalize = torch.tensor(
            [candidate.losses.normalize_load_balance for candidate in own], device=self.device
        )

    def _make_inputs(self) -> None:
        """Makes what every step is told anew."""
        members = [self._member(position) for position in range(self.cohort.num_candidates)]
        self._rates = Rates([own.train for own in members], self.num_steps, self.device)
        # They know the population weakly: in a circle, its memory would wait for the garbage collector, and the next
        # population would find a GPU full.
        own: Population = weakref.proxy(self)
        self._streams = Streams(self.cohort, partial(Population._seed, own))
        self._rooms = Rooms(own, partial(Population._train_batch, own))
        self._steps = Steps(own, partial(Population._make_step, own))

    def _make_optimizer(self, members: Sequence[int]) -> StackedAdamW:
        own = [self.candidates[position].train for position in members]

        def vector(values: list[float]) -> Tensor:
            return torch.tensor(values, device=self.device)

        return StackedAdamW(
            self.cohort.parameters,
            self.cohort.owner,
            learning_rate=vector([train.learning_rate for train in own]),
            weight_decay=vector([train.weight_decay for train in own]),
            clip_norm=vector([train.clip_norm or float("inf") for train in own]),
        )

    @property
    def num_steps(self) -> int:
        """Steps per epoch."""
        return -(-self.data.per_epoch // self.candidates[0].train.batch_size)

    def train_epoch(self, after_step: Callable[[], None] | None = None) -> None:
        """Trains every candidate to the end of the epoch that has begun, or of the next.

        Args:
            after_step: Called after every step. It may raise; a later call then goes on where this one stopped.
        """
        self.cohort.train(True)
        first = self.candidates[0]
        num_train, per_epoch = len(self.data.train.y), self.data.per_epoch
        order = epoch_order(num_train, first.study_seed, self.epoch, per_epoch)
        self._batches = torch.split(sent(order, self.device), first.train.batch_size)
        self._rooms.begin()
        with one_thread(only_if=self._is_small):
            while self.batch < len(self._batches):
                self._train_batch()
                self._rooms.after_step()
                if after_step is not None:
                    after_step()
        self.settle()
        self.train_loss = self.loss_sum / len(order)
        self.loss_sum = torch.zeros_like(self.loss_sum)
        self.epoch += 1
        self.batch = 0

    def settle(self) -> None:
        """Sees to it that what was trained so far may be read; see `training.rooms`."""
        self._rooms.look()

    def _train_batch(self) -> None:
        """Makes the next step of the epoch."""
        rows = self._batches[self.batch]
        x, y = self.data.train.x[rows], self.data.train.y[rows]
        first = self.candidates[0]
        if first.train.augment:
            x = augment(x, first.study_seed, self.step)
        self.loss_sum += self._train_step(x, y) * len(rows)
        self.batch += 1

    def _train_step(self, x: Tensor, y: Tensor) -> Tensor:
        """Makes one optimiser step and returns the task loss of every member, (P,)."""
        self._set_streams()
        task, chosen = self._steps(x, y, self._rate_factors(), self._rooms.version)
        self.step += 1
        self.adaptation.after_step(self.step, chosen)
        return task

    def _make_step(self, x: Tensor, y: Tensor, factors: Tensor) -> tuple[Tensor, list[Chosen]]:
        """Makes what of a step may be recorded, see `training.graphs`."""
        task, chosen = self._gradients(x, y)
        self.optimizer.step(self.cohort.parameters, self.cohort.owner, factors)
        self.cohort.apply_state(chosen)
        return task, chosen

    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Chosen]]:
        """Adds the gradients of one batch to the parameters' `.grad`.

        Args:
            x: (batch, ...) examples, the same for all candidates.
            y: (batch,) class numbers, or (batch, tokens) next tokens.

        Returns:
            The task loss of every member (P,), detached, and what each MoE layer chose.
        """
        self._set_streams()
        with one_thread(only_if=self._is_small):
            return self._gradients(x, y)

    def _gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Chosen]]:
        """The same with the streams as they are."""
        if self.cohort.head is not None:
            return self._token_gradients(x, y)
        with self._autocast():
            logits, routings = self.cohort.forward(x)
        task = cross_entropy(logits, y, self.candidates[0].train.label_smoothing).mean(1)
        loss = self._add_auxiliary(task, routings)
        self.is_finite &= loss.detach().isfinite()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        return task.detach(), [Chosen.of(own) for own in routings]

    def _token_gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Chosen]]:
        """The same for language models of ours, without the logits of all tokens in memory at once."""
        with self._autocast():
            hidden, routings = self.cohort.hidden(x)
            task, upstream = head_gradients(
                self.cohort, hidden, y, self.candidates[0].train.label_smoothing
            )
        auxiliary = self._add_auxiliary(torch.zeros_like(task), routings)
        self.is_finite &= (task + auxiliary.detach()).isfinite()
        ends, gradients = [hidden], [upstream]
        if auxiliary.requires_grad:
            ends.append(auxiliary)
            gradients.append(torch.ones_like(auxiliary))
        torch.autograd.backward(ends, gradients)
        return task, [Chosen.of(own) for own in routings]

    def _add_auxiliary(self, task: Tensor, routings: Sequence[Routing]) -> Tensor:
        """Adds the weighted auxiliary losses, summed over layers, to the task loss (members,)."""
        loss = task
        for layer, routing in zip(self.cohort.layers, routings, strict=True):
            terms = auxiliary_losses(routing, tuple(self.loss_weights), self.normalize)
            for name, term in terms.items():
                weight = self.loss_weights[name]
                # where: a term that is not finite must not reach a candidate that does not use it
                loss = loss + torch.where(weight > 0, weight * term, 0.0)
            for name in routing.state or {}:
                if name.endswith("sparsity"):
                    owner = self.cohort.owner[f"{layer.path}router.{name}"]
                    penalty = sparsity_penalty(routing.probs[owner], routing.state[name])
                    loss = loss.index_add(0, owner, penalty)
        return loss

    def _rate_factors(self) -> Tensor:
        """Returns every member's share of its peak learning rate at this step."""
        return self._rates.at(self.step)

    def _set_streams(self) -> None:
        """Gives every random module of every member the seed of this training step."""
        self._streams.set(self.step)

    def _seed(self, position: int, purpose: str, step: int) -> int:
        own = self._member(position)
        return derive_seed(own.study_seed, own.ordinal, purpose, step)

    def _autocast(self) -> torch.autocast:
        precision = self.candidates[0].train.precision
        low = precision == "bf16" or (precision == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low)

    def evaluate(self) -> list[Evaluation]:
        """Returns the evaluation of every candidate on the validation part, in fp32 as an exported model is."""
        self.set_evaluation_streams()
        with one_thread(only_if=self._is_small):
            evaluations = evaluate(self.cohort, self.data.validation)
        return evaluations[: len(self.candidates)]  # a lone candidate has a copy for company

    def set_evaluation_streams(self) -> None:
        """Gives every random module its first seed, which a module that is loaded from a file has, too."""
        cohort = self.cohort
        for name in cohort.streams:
            single = cohort.single_name(name)
            first = [
                self.models[position if position < len(self.models) else 0].get_buffer(single)
                for position in cohort.owner[name].tolist()
            ]
            where = cohort.buffers[name].device  # on the CPU, if it reads them there
            cohort.buffers[name] = sent(torch.stack(first), where)

    def counts(self, position: int) -> ParameterCounts:
        """Returns the parameter counts of one candidate, with the experts that are open now."""
        model, ordinal = self.models[position], self.candidates[position].ordinal
        names = [layer.path + "is_open" for layer in self.cohort.layers]
        opened = [self.cohort.buffers[name][position].tolist() for name in names]
        known = self._counts.get(ordinal)
        if known is None or known[0] != opened:
            for name, now in zip(names, opened, strict=True):
                is_open = model.get_buffer(name)
                is_open.copy_(torch.tensor(now[: len(is_open)]))
            known = self._counts[ordinal] = (opened, count_parameters(model))
        return known[1]

    def plain_model(self, position: int) -> nn.Module:
        """Returns the candidate as the plain module that was written, with its present weights, on the CPU."""
        model = self.models[position]
        model.load_state_dict(self.cohort.unstack(position))
        return model.eval()

    def progress(self, evaluations: Sequence[Evaluation], seconds: float) -> list[Progress]:
        """Returns what every candidate reports after an epoch that took the whole cohort `seconds`."""
        losses = self.train_loss.tolist()
        return [
            Progress(
                ordinal=candidate.ordinal,
                epoch=self.epoch,
                train_loss=losses[position],
                validation_loss=evaluation.loss,
                accuracy=evaluation.accuracy,
                activated_params=self.counts(position).activated(evaluation.mean_k),
                mean_k_per_layer=evaluation.mean_k,
                experts_per_layer=tuple(layer.num_experts for layer in evaluation.routing),
                seconds=seconds / len(self.candidates),
            )
            for position, (candidate, evaluation) in enumerate(
                zip(self.candidates, evaluations, strict=True)
            )
        ]

    def states(self, seconds: Mapping[int, float] | None = None) -> list[CandidateState]:
        """Returns what every candidate needs to go on, in order; `seconds` of time so far by ordinal."""
        return states_of(self, seconds or {})

    def keep(self, positions: Sequence[int]) -> None:
        """Goes on with the candidates at these positions only."""
        chosen = list(positions)
        if len(chosen) == len(self.candidates):
            return
        members = self._with_ghost(chosen)
        rows = self.cohort.keep(members)
        self.optimizer.keep(rows, members)
        self.adaptation.keep(members)
        index = torch.tensor(members, device=self.device)
        self.loss_weights = {name: weight[index] for name, weight in self.loss_weights.items()}
        self.normalize = self.normalize[index]
        self.is_finite = self.is_finite[index]
        self.train_loss = self.train_loss[index]
        self.loss_sum = self.loss_sum[index]
        self.candidates = [self.candidates[position] for position in chosen]
        self.models = [self.models[position] for position in chosen]
        self._make_inputs()


def _current(device: torch.device) -> torch.device:
    """Returns the device with its number, as its tensors tell it; a CUDA device becomes the current one.

    Streams, events and graphs are those of the current device, whatever device the tensors are on.
    """
    if device.type == "cuda":
        if str(device) == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.set_device(device)
    return device
