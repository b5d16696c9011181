"""Trained candidates on examples that their training did not see, from the weights that were kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamoe_search.data import SearchData, Split, TextSplit
from dynamoe_search.moe.accounting import count_parameters
from dynamoe_search.moe.backbones import build_model
from dynamoe_search.records import Candidate
from dynamoe_search.training.cohort import Cohort
from dynamoe_search.training.evaluation import Evaluation, evaluate
from dynamoe_search.training.modes import choose_mode
from dynamoe_search.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """What one candidate did."""

    evaluation: Evaluation
    activated_params: float  # mean over the tokens of these examples


def evaluate_weights(
    pack: Sequence[tuple[Candidate, Mapping[str, Tensor]]],
    data: SearchData,
    split: Split | TextSplit,
    settings: TrainSettings,
) -> list[HeldOut]:
    """Returns the evaluation of trained candidates on a part of the data, in order.

    As in training, a candidate's numbers do not depend on its company.

    Args:
        pack: Candidates of one pack key, each with the `state_dict` of its plain module.
        data: The data that they were trained on; only its shape is read.
        split: Examples, standardised, on the device.
        settings: Those of the training.

    Raises:
        RuntimeError: The weights are of another network.
        UsageError: The backbone cannot be imported.
    """
    models = []
    for candidate, state in pack:
        model = build_model(
            candidate, data.input_shape, data.num_classes, trust_code=settings.trust_code
        )
        model.load_state_dict(dict(state))
        models.append(model)
    members = models * 2 if len(models) == 1 else models  # a lone one is accompanied by itself
    cohort = Cohort(
        members,
        num_slots=settings.num_slots,
        device=torch.device(settings.device),
        backend=settings.expert_backend,
    )
    choose_mode(cohort, members, split.x[:2])
    evaluations = evaluate(cohort, split)[: len(models)]
    return [
        HeldOut(evaluation=one, activated_params=count_parameters(model).activated(one.mean_k))
        for model, one in zip(models, evaluations, strict=True)
    ]
