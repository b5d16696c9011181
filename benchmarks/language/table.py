"""What a search of language models found: every candidate that trained to its end, beside unigram and dense models.

    python -m benchmarks.language.table STORAGE STUDY [STUDY ...] > benchmarks/language/results/NAME.md

Dense models are those in which every token uses all experts, whatever the router is called: with n experts of width h
they are one network of width n * h in every layer. Validation part; a single seed.
"""

import math
import platform
import sys

import torch

from dynamoe_search.data import TextData, load_data
from dynamoe_search.records import CandidateRecord, StudyRecord
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store

HEAD = (
    "| trial | router | experts | mean K | activated | with table | perplexity | bits per byte "
    "| best dense with no more | front |\n|--:|---|---|---|--:|--:|--:|--:|--:|---|"
)


def main(storage: str, studies: list[str]) -> None:
    """Prints a section per study."""
    print("# Language models, as they were searched\n")
    print(f"Command: `python -m benchmarks.language.table STORAGE {' '.join(studies)}`.")
    print(f"2 CPU cores ({platform.machine()}), other work beside it; one thread,")
    print(f"Python {platform.python_version()}, torch {torch.__version__}.")
    with Store.open(storage, create=False) as store:
        for name in studies:
            front = {member.trial for member in store.front(name)}
            show(store.study(name), store.candidates(name), front)


def show(study: StudyRecord, candidates: list[CandidateRecord], front: set[int]) -> None:
    """Prints what one study is about, and its candidates by their activated parameters."""
    data = load_data(StudySpec.model_validate_json(study.spec_json).data)
    assert isinstance(data, TextData)
    done = [one for one in candidates if one.outcome and one.outcome.status == "complete"]
    done.sort(key=lambda one: metric(one, "activated_params"))
    bits = data.unigram_loss / math.log(2) / data.bytes_per_token
    epochs = sum(one.outcome.epochs for one in candidates if one.outcome)
    print(f"\n## {study.name}\n")
    print(
        f"{len(candidates)} candidates, {len(done)} trained to their end, {epochs} epochs in all,"
    )
    print(f"{study.seconds_spent / 60:.1f} minutes. {data.train.y.numel():,} tokens to learn from,")
    print(f"{data.validation.y.numel():,} to compare on, {data.bytes_per_token:.2f} bytes each.")
    print(f"The frequencies of the {data.vocab_size:,} tokens: perplexity", end=" ")
    print(f"{math.exp(data.unigram_loss):,.1f}, {bits:.3f} bits per byte.\n\n{HEAD}")
    for one in done:
        print(row(one, [other for other in done if is_dense(other)], is_front=one.trial in front))


def row(one: CandidateRecord, dense: list[CandidateRecord], *, is_front: bool) -> str:
    """Returns a line of the table."""
    assert one.outcome is not None
    size = metric(one, "activated_params")
    rivals = [
        metric(other, "perplexity") for other in dense if metric(other, "activated_params") <= size
    ]
    kind = one.candidate.reference or one.candidate.router.kind
    cells = (
        one.trial,
        f"{kind}, dense" if is_dense(one) and kind != "dense" else kind,
        " ".join(str(layer.num_experts) for layer in one.outcome.routing),
        " ".join(f"{layer.mean_k:.2f}" for layer in one.outcome.routing),
        f"{size:,.0f}",
        f"{metric(one, 'activated_params_with_embeddings'):,.0f}",
        f"{metric(one, 'perplexity'):.1f}",
        f"{metric(one, 'bits_per_byte'):.3f}",
        "itself" if is_dense(one) else f"{min(rivals):.1f}" if rivals else "none so small",
        "yes" if is_front else "",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def metric(one: CandidateRecord, name: str) -> float:
    """Returns a measure of a candidate that is complete."""
    assert one.outcome is not None
    return one.outcome.metrics[name]


def is_dense(one: CandidateRecord) -> bool:
    """Tells whether every token used all experts of every layer."""
    assert one.outcome is not None
    return all(layer.mean_k == layer.num_experts for layer in one.outcome.routing)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
