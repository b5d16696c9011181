"""Which packs one thread computes alone, and how they are cut into parts that processes train side by side.

On the CPU the operations of a small network are too short to be shared by threads. So such a pack is computed by one
thread, whatever its size: some products round differently where threads share them, and a candidate's numbers must not
depend on its company. Other cores are used by training parts of the pack beside it, see `training.hands`.
"""

import math
from collections.abc import Sequence

import torch

from dynamoe_search.data import SearchData
from dynamoe_search.moe.asynchrony import runs_ahead
from dynamoe_search.moe.formulas import num_tokens
from dynamoe_search.records import Candidate
from dynamoe_search.specs.vocabulary import IMAGE_BACKBONES
from dynamoe_search.training.settings import TrainSettings

_MOST_OPERATIONS = 2**33
"""In a training step of one candidate, about 0.2 s of a core; in a larger one threads have enough to share."""
_RATE = 3e10  # operations a second of a core, with all that is between them
_WORTH_STARTING = 8.0  # seconds of a leg; to start a process takes about two
_WORTH_SHARING = 1.0  # seconds of a leg, once processes have been started
_WORTH_PREPARING = 20.0  # seconds of a study


def is_small(candidate: Candidate, input_shape: Sequence[int], device: torch.device) -> bool:
    """Tells whether one thread computes whatever pack a candidate is in; all of one pack key get the same answer.

    Args:
        candidate: One of the pack. Language models and users' own networks are not small.
        input_shape: (channels, height, width) of one image.
        device: Where it is trained.
    """
    if device.type != "cpu" or runs_ahead(device):
        return False
    if candidate.model.backbone not in IMAGE_BACKBONES:
        return False
    return _operations(candidate, input_shape) <= _MOST_OPERATIONS


def _operations(candidate: Candidate, input_shape: Sequence[int]) -> float:
    """Returns about how many operations a training step takes with two experts per token.

    Only what is the same for all candidates of one pack key may count.
    """
    model, tokens = candidate.model, num_tokens(candidate, input_shape)
    layer = 4 * model.d_model * model.d_expert
    if model.backbone == "vit":
        layer += 4 * model.d_model**2 + 2 * tokens * model.d_model
    per_token = math.prod(input_shape) // tokens * model.d_model + model.num_layers * layer
    return 6.0 * candidate.train.batch_size * tokens * per_token


def step_seconds(candidate: Candidate, input_shape: Sequence[int]) -> float:
    """Returns about how long a training step of a small candidate takes a core."""
    return 1e-3 + _operations(candidate, input_shape) / _RATE


def number_of_parts(
    pack: Sequence[Candidate],
    data: SearchData,
    settings: TrainSettings,
    epochs: int,
    *,
    are_started: bool,
) -> int:
    """Returns how many parts of a pack are worth being trained side by side; 1 if it is better left whole.

    Args:
        pack: Candidates of one pack key.
        data: What they are trained on.
        settings: What is measured beside the training needs the machine for itself.
        epochs: Of the leg.
        are_started: Whether there are processes for it already.
    """
    most = most_parts(pack, data, settings)
    if most == 1:
        return 1
    steps = epochs * -(-data.per_epoch // pack[0].train.batch_size)
    seconds = len(pack) * steps * step_seconds(pack[0], data.input_shape)
    return most if is_worth(seconds, are_started=are_started) else 1


def is_worth(seconds: float, *, are_started: bool = False) -> bool:
    """Tells whether so many seconds of training are worth being divided among processes, if they can be."""
    return seconds >= (_WORTH_SHARING if are_started else _WORTH_STARTING)


def most_parts(pack: Sequence[Candidate], data: SearchData, settings: TrainSettings) -> int:
    """Returns how many parts of a pack can be trained side by side; a lone candidate would cost as much as two."""
    if settings.measure or not is_small(pack[0], data.input_shape, torch.device(settings.device)):
        return 1
    return max(1, min(_threads(settings), -(-len(pack) // 2)))


def parts_of_study(
    candidate: Candidate, data: SearchData, settings: TrainSettings, candidate_epochs: float
) -> int:
    """Returns for how many parts of a pack processes are worth being started before they are needed; 1 if for none.

    Args:
        candidate: A usual one.
        data: Of the study.
        settings: Of the study.
        candidate_epochs: That are about to be trained.
    """
    if settings.measure or not is_small(candidate, data.input_shape, torch.device(settings.device)):
        return 1
    steps = candidate_epochs * -(-data.per_epoch // candidate.train.batch_size)
    seconds = steps * step_seconds(candidate, data.input_shape)
    return _threads(settings) if seconds >= _WORTH_PREPARING else 1


def _threads(settings: TrainSettings) -> int:
    return settings.num_threads or torch.get_num_threads()


def divided(pack: Sequence[Candidate], number: int) -> list[list[Candidate]]:
    """Divides a pack into parts that are about equal in work, with as few kinds of router in each as possible.

    Args:
        pack: The candidates.
        number: Of parts; there may be fewer.
    """
    order = sorted(pack, key=lambda one: (one.router.kind, one.ordinal))
    total = sum(_work(one) for one in order)
    parts: list[list[Candidate]] = [[] for _ in range(number)]
    before = 0
    for one in order:
        middle = before + _work(one) / 2
        parts[min(number - 1, int(number * middle / total))].append(one)
        before += _work(one)
    return [sorted(part, key=lambda one: one.ordinal) for part in parts if part]


def _work(candidate: Candidate) -> int:
    """Counts in experts of a token; what is beside the experts of a layer takes about as long as one."""
    most = candidate.router.k or max(candidate.slots_per_layer)
    return sum(1 + min(most, slots) for slots in candidate.slots_per_layer)
