"""The sections of a study file. Every field is documented here, once; the reference page is made from it."""

from typing import Annotated, Literal

from pydantic import Field

from dynamoe_search.specs.searchable import (
    Frozen,
    SearchBool,
    SearchFloat,
    SearchInt,
    Within,
)
from dynamoe_search.specs.vocabulary import (
    DataName,
    ExpertKind,
    Match,
    Objective,
    PrunerKind,
    Reference,
    SamplerKind,
    SearchRamp,
    SearchRouterKind,
    SearchShape,
    SearchSoftmaxOrder,
    SearchWeightGradient,
    TokenizerKind,
)

MOST = 1_000_000_000
"""Upper bound of counts that have no other: what every database keeps in an integer column."""

StudyName = Annotated[str, Field(pattern=r"^\w[\w .-]{0,99}$")]


class StudySection(Frozen):
    """What is searched for, and how long."""

    name: StudyName
    """Name of the study: up to 100 letters, digits, spaces, dots, dashes and underscores."""
    description: str = Field(default="", max_length=1000)
    """The question that the study answers, in a sentence."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Every random choice of the study is derived from this number."""
    trials: int = Field(default=64, ge=1, le=MOST)
    """How many candidates to train, reference designs included."""
    objectives: tuple[Objective, ...] = Field(
        default=("accuracy", "activated_params"), strict=False, min_length=1, max_length=4
    )
    """What the Pareto front is made of; accuracy is maximised, everything else minimised."""
    references: tuple[Reference, ...] = Field(
        default=("dense", "top-1", "top-2", "uniform"), strict=False
    )
    """Well-known designs that are trained first, for comparison."""
    constraints: dict[str, float] = Field(default_factory=dict)
    """Bounds such as `max_activated_params = 50000`, `min_accuracy = 0.9`: candidates outside are not on the front."""


class DataSection(Frozen):
    """What the candidates are trained on."""

    name: DataName = "digits"
    """`npz` reads the arrays `x` and `y` of `path`; `folder` reads one sub-folder of images per class from `path`.

    For language models: `docs` is the CPython documentation that comes with Python, `text` reads `path`, `hf` is the
    Hugging Face data set `repo`, `recycling-the-web` is facebook/recycling_the_web there."""
    path: str | None = Field(default=None, max_length=1000)
    """File or folder of the data, from the folder in which the command is called; for the named sets, the root folder
    that holds or receives them.

    For `text`, a .jsonl file, any other file of text, or a folder of .txt, .md and .jsonl files."""
    download: bool = True
    """Download a named set that is not found."""
    validation_fraction: float = Field(default=1 / 6, gt=0, lt=1)
    """Share of the training part that is held out to compare candidates."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share held out for the test, for sets that come without a test part."""
    max_train: int | None = Field(default=None, ge=1, le=MOST)
    """Use at most this many training examples (of text: sequences), drawn with `split_seed`."""
    epoch_size: int | None = Field(default=None, ge=1, le=MOST)
    """Training examples (of text: sequences) of one epoch; the next goes on with others, until all were seen.

    None means all. With less, a large data set is compared at rungs before the first pass over it is over."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the division into training, validation and test part."""
    image_size: int | None = Field(default=None, ge=4, le=512)
    """Side of the square that the images of a `folder` are scaled to."""
    repo: str | None = Field(default=None, min_length=1, max_length=200)
    """`hf`: the data set as `owner/name`, or a folder in a form that the library `datasets` reads."""
    subset: str | None = Field(default=None, min_length=1, max_length=200)
    """`hf`: which configuration of the data set; none means its only or default one."""
    field: str = Field(default="text", min_length=1, max_length=200)
    """Text: the field of a record (`hf`, lines of .jsonl) that holds the text of a document."""
    max_documents: int | None = Field(default=None, ge=3, le=MOST)
    """Text: read at most so many documents, the first ones; what is streamed needs this or `max_tokens`."""
    max_tokens: int | None = Field(default=None, ge=1, le=1000 * MOST)
    """Text: stop reading after the document with which so many tokens are reached."""
    sequence_length: int = Field(default=128, ge=2, le=65536)
    """Text: tokens that a model sees at once; each is predicted from those before it."""
    tokenizer: TokenizerKind = "bytes"
    """Text: `bytes`, GPT-2's vocabulary of byte pairs (`gpt2`), or one trained on the training part (`bpe`)."""
    tokenizer_path: str | None = Field(default=None, min_length=1, max_length=1000)
    """`gpt2`: a folder with its files, or the Hugging Face name of another byte-pair vocabulary; none downloads it."""
    vocab_size: int = Field(default=1024, ge=258, le=1_000_000)
    """`bpe`: entries of the vocabulary, 256 bytes and the separator of documents included."""


class ModelSection(Frozen):
    """The network around the experts."""

    backbone: str = Field(
        default="mlp",
        pattern=r"^(mlp|vit|gpt|mlp-lm|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        max_length=200,
    )
    """`mlp` or `vit` for images, `gpt` or `mlp-lm` for text, or the user's own class as `package.module:Class`.

    Somebody's own class is imported only with --trust-code."""
    d_model: Annotated[SearchInt, Within(ge=4, le=4096, multiple_of=4)] = 64
    """Width of the residual stream."""
    num_layers: Annotated[SearchInt, Within(ge=1, le=64)] = 4
    """How many MoE layers the network has."""
    d_expert: Annotated[SearchInt, Within(ge=4, le=16384, multiple_of=4)] = 64
    """Hidden width of one expert."""
    num_heads: int = Field(default=4, ge=1, le=4096)
    """Attention heads of a `vit` or `gpt`; must divide d_model, for a `gpt` into even parts."""
    patch_size: int = Field(default=4, ge=1, le=4096)
    """Side of a square patch of a `vit`; must divide the image."""
    dropout: Annotated[SearchFloat, Within(ge=0, lt=1)] = 0.0
    """Share of the activations dropped in training after every block."""
    moe_every: int = Field(default=1, ge=1, le=64)
    """`gpt`: every so many blocks have a MoE layer; the others have one dense network of an expert's width."""
    expert: ExpertKind = "gelu"
    """`gpt` and `mlp-lm`: what stands between the two layers of an expert; `swiglu` has half as many weights more."""
    tie_embeddings: bool = True
    """`gpt` and `mlp-lm`: read and write tokens with the same table."""


class ScheduleSection(Frozen):
    """How many experts each layer has."""

    shape: SearchShape = "uniform"
    """Shape of the expert count over depth."""
    min_experts: Annotated[SearchInt, Within(ge=1, le=256)] = 2
    """Experts where the schedule is lowest."""
    max_experts: Annotated[SearchInt, Within(ge=1, le=256)] = 8
    """Experts where the schedule is highest."""
    ramp: SearchRamp = "linear"
    """How the count changes between its ends."""
    cycles: Annotated[SearchInt, Within(ge=1, le=16)] = 1
    """Periods of a wave over the depth."""
    match: Match = "max"
    """`max`: shapes share their highest count; `total`: shapes share their sum of experts."""
    total_experts: Annotated[SearchInt, Within(ge=1, le=16384)] | None = None
    """Sum over layers with match = "total"; none means num_layers * (min_experts + max_experts) / 2, rounded."""


class RouterSection(Frozen):
    """How a token chooses its experts. A setting is sampled only for the kinds that read it."""

    kind: SearchRouterKind = "top-any"
    """The routing rule."""
    k: Annotated[SearchInt, Within(ge=1, le=256)] = 2
    """Experts per token of `top-k`, at most those of the layer; choices of `null-experts`, null ones included."""
    softmax: SearchSoftmaxOrder = "after"
    """`top-k`: softmax over all experts `before` the selection, or over the selected `after` it."""
    tau: Annotated[SearchFloat, Within(gt=0, lt=1)] = 0.5
    """Threshold of `percentile`, `pooled-quantile` (a quantile) and `range-fraction` (a share of the range)."""
    rho: Annotated[SearchFloat, Within(gt=0, le=1)] = 0.5
    """`relative-to-max`: keep experts whose probability is at least rho times the highest."""
    p: Annotated[SearchFloat, Within(ge=0, le=1)] = 0.4
    """`top-p`: keep the most probable experts until their probabilities sum to more than p."""
    threshold: Annotated[SearchFloat, Within(ge=-5, le=5)] = 0.0
    """`top-any`: where the learned thresholds start; an expert opens where its cosine with the token is above it."""
    threshold_spread: Annotated[SearchFloat, Within(ge=0, le=5)] = 0.0
    """`top-any`: standard deviation of the thresholds' start over the experts."""
    logit_scale: Annotated[SearchFloat, Within(gt=0, le=100)] = 1.0
    """`top-any`: factor on cosine and threshold before the sigmoid."""
    learn_logit_scale: SearchBool = False
    """`top-any`: train the scale."""
    weight_gradient: SearchWeightGradient = "sum"
    """`top-any`: gradient through the division by the number of open experts (`sum`), or treating it as `constant`."""
    capacity: Annotated[SearchFloat, Within(gt=0, le=256)] = 2.0
    """`expert-choice`: mean number of experts per token."""
    target_active: Annotated[SearchFloat, Within(gt=0, le=256)] = 2.0
    """`relu`: mean number of experts per token that the sparsity penalty is steered to."""
    sparsity_step: Annotated[SearchFloat, Within(gt=1, le=10)] = 1.2
    """`relu`: factor by which the penalty changes each step."""
    null_experts: int = Field(default=2, ge=1, le=256)
    """`null-experts`: how many experts without computation stand beside the real ones."""
    histogram: tuple[float, ...] = Field(
        default=(0.0, 0.5, 0.5), strict=False, min_length=1, max_length=257
    )
    """`random-k`: probability of 0, 1, 2, ... experts per token (a control)."""
    temperature: Annotated[SearchFloat, Within(gt=0, le=100)] = 1.0
    """Divides the logits before the softmax."""
    noise: Annotated[SearchFloat, Within(ge=0, le=10)] = 0.0
    """Standard deviation of Gaussian noise added in training (to probabilities; to logits for `top-k`)."""
    bias_rate: Annotated[SearchFloat, Within(ge=0, le=1)] = 0.0
    """Step of the loss-free balancing bias, which changes the selection but not the weights; 0 switches it off."""
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """Of the running threshold that `pooled-quantile` and `expert-choice` use at inference."""


class LossesSection(Frozen):
    """Weights of the auxiliary losses. A weight is sampled only for routers for which the loss has a gradient."""

    load_balance: Annotated[SearchFloat, Within(ge=0, le=100)] = 0.0
    """Experts times the inner product of load and mean probability."""
    normalize_load_balance: bool = True
    """Divide the load by the mean number of experts per token, so that using few experts is not rewarded."""
    diversity: Annotated[SearchFloat, Within(ge=0, le=100)] = 0.0
    """Cosines between the router rows of different experts."""
    simplicity: Annotated[SearchFloat, Within(ge=0, le=100)] = 0.0
    """Mean norm of the router rows."""
    efficiency: Annotated[SearchFloat, Within(ge=0, le=100)] = 0.0
    """Mean share of the experts that is active."""
    dynamic: Annotated[SearchFloat, Within(ge=0, le=100)] = 0.0
    """Entropy of the routing distribution."""
    z: Annotated[SearchFloat, Within(ge=0, le=100)] = 0.0
    """Square of the log-sum-exp of the router logits."""


class AdaptiveSection(Frozen):
    """Experts added and removed while training (router `top-any` only)."""

    enabled: SearchBool = False
    """Whether the number of experts changes while training."""
    max_experts: int = Field(default=16, ge=1, le=256)
    """Slots per layer; a layer starts with the experts of its schedule, at most this many."""
    period: int = Field(default=900, ge=1, le=MOST)
    """Training steps from one change to the next."""
    record_from: int = Field(default=300, ge=0, le=MOST)
    """Step within the period at which recording starts."""
    update_at: int = Field(default=600, ge=1, le=MOST)
    """Step within the period at which experts are removed and added, and recording ends."""
    add: bool = True
    """Open one expert for the tokens that activated nobody."""
    remove: bool = True
    """Close experts that no token activated."""
    new_expert: Literal["keep", "fresh"] = "keep"
    """A re-opened slot starts from its own weights (as published) or from freshly drawn ones."""


class TrainSection(Frozen):
    """How each candidate is trained."""

    epochs: int = Field(default=10, ge=1, le=MOST)
    """Passes over the training part, or with `data.epoch_size` over so much of it."""
    batch_size: int = Field(default=128, ge=1, le=MOST)
    """Examples per step."""
    learning_rate: Annotated[SearchFloat, Within(gt=0, le=10)] = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[SearchFloat, Within(ge=0, le=10)] = 0.0
    """Decoupled weight decay, on matrices only (not on biases, norms, thresholds)."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly from 0."""
    decay: Literal["constant", "cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up."""
    final_lr_fraction: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the last step as a share of the peak, for `cosine` and `linear`."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest gradient norm of one candidate; 0 switches clipping off."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Probability mass spread over all classes."""
    augment: bool = False
    """Random shifts and mirror images (shifts only for data in grey)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 autocast on CUDA and fp32 on the CPU; routers and losses are always fp32."""


class PrunerSection(Frozen):
    """Which candidates wait at a rung while others go on.

    At each rung, candidates are compared with all that reached it: lowest validation error so far,
    validation loss and activated parameters. Who falls behind is paused, and goes on if later
    rivals show it to be better than it seemed. Reference designs are compared, but never held back.
    """

    kind: Literal["auto", PrunerKind] = "auto"
    """Who is held back. `pareto`: beaten by too many; `moasha`: not in the first 1/eta; `median`: in the worse half.

    `auto` is `pareto` if candidates can be compared in all that the study is about, else `none`."""
    rungs: Annotated[tuple[int, ...], Field(strict=False)] | None = None
    """Epochs after which candidates are compared; none means four early ones, such as 1, 2, 3, 5."""
    share: float = Field(default=0.5, gt=0, le=1)
    """`pareto`: share of a rung that goes on: whom the fewest rivals beat in error, loss and activated parameters."""
    guard: float = Field(default=0.0, ge=0, lt=1)
    """`pareto`: also hold back who is in this worst share in error and loss alike, from 8 records on."""
    eta: float = Field(default=2.0, gt=1)
    """`moasha`: one in eta goes on (published with 3)."""
    pause: bool = True
    """Keep a checkpoint of who is held back, to go on later; otherwise it is stopped for good."""
    min_records: int = Field(default=16, ge=1, le=MOST)
    """Hold nobody back at a rung that fewer candidates have reached; so many go on from it in any case (`pareto`)."""


class SearchSection(Frozen):
    """How designs are proposed and trained together."""

    sampler: SamplerKind = "tpe"
    """Multi-objective TPE, NSGA-II, random or quasi-random (QMC)."""
    startup_trials: int = Field(default=16, ge=1, le=MOST)
    """Random designs before TPE starts to learn; population size of NSGA-II."""
    cohort_size: int = Field(default=16, ge=1, le=1024)
    """How many candidates are proposed and trained together; on a GPU fewer, if memory seems too short."""
    expert_backend: Literal["auto", "grouped", "dense"] = "auto"
    """`grouped` computes only the chosen experts; `dense` computes all of them (for high K).

    `auto` is whichever is faster on the machine that creates the study, which is measured once and stored with it."""
    checkpoint_limit_mb: int = Field(default=4096, ge=0, le=MOST)
    """Disk space for checkpoints of the paused; beyond it the most hopeless lose theirs and would start again."""
    pruner: PrunerSection = Field(default_factory=PrunerSection)
    """Which candidates stop early; a section of its own, `[search.pruner]`."""


__all__ = [
    "AdaptiveSection",
    "DataSection",
    "LossesSection",
    "ModelSection",
    "PrunerSection",
    "RouterSection",
    "ScheduleSection",
    "SearchSection",
    "StudySection",
    "TrainSection",
]
