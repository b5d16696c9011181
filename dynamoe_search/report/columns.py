"""The tables that a report writes: their columns, what kind of values they hold, and what these mean.

Names are stable: columns are added at the end and never renamed. `docs/reference/report-tables.md` is made from here.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["int", "float", "bool", "text", "ints", "floats"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table.

    `is_printed` columns are in Markdown and LaTeX, which have no room for all of them.
    """

    name: str
    kind: Kind
    about: str
    is_printed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TableKind:
    """A table: its name, what a row is, and its columns."""

    name: str
    about: str
    columns: tuple[Column, ...]


def _column(name: str, kind: Kind, about: str) -> Column:
    return Column(name=name.rstrip("*"), kind=kind, about=about, is_printed=name.endswith("*"))


_STUDY = _column("study", "text", "name of the study")
_TRIAL = _column("trial*", "int", "number of the trial in Optuna")
_MEASURES = (
    _column("accuracy*", "float", "share of the validation examples classified right"),
    _column("validation_loss", "float", "mean cross-entropy on the validation part, in nats"),
    _column("activated_params*", "float", "mean parameters that a validation token used"),
    _column("total_params*", "float", "all parameters"),
    _column("flops_per_token", "float", "floating point operations of one token, forwards"),
    _column("latency_ms", "float", "milliseconds; empty if not measured"),
    _column("peak_memory_mb", "float", "megabytes; empty if not measured"),
)
_DESIGN = (
    _column("router*", "text", "kind of the router"),
    _column("schedule*", "text", "shape of the schedule"),
    _column("experts_per_layer*", "ints", "open experts of each layer when the training ended"),
    _column("mean_k_per_layer*", "floats", "mean experts per token of each layer, measured"),
    _column("d_model", "int", "width of the residual stream"),
    _column("num_layers", "int", "MoE layers"),
    _column("d_expert", "int", "hidden width of one expert"),
)
_PARAMS = _column("params_json", "text", "what the sampler chose, by the key of the study file")

TRIALS = TableKind(
    name="trials",
    about="One row per candidate of the study, whatever became of it.",
    columns=(
        _STUDY,
        _TRIAL,
        _column(
            "ordinal", "int", "how many designs had been proposed before; seeds derive from it"
        ),
        _column("cohort", "int", "cohort that it was proposed in, from 0"),
        _column("status*", "text", "`complete`, `stopped` (pruned), `failed`, `paused`, `running`"),
        _column("is_on_front*", "bool", "whether no other complete candidate dominates it"),
        _column("is_feasible", "bool", "whether it keeps the study's constraints"),
        _column("reference*", "text", "name of the reference design; empty for a searched one"),
        *_MEASURES,
        *_DESIGN,
        _column("learning_rate", "float", "peak learning rate"),
        _column("epochs*", "int", "epochs that it was trained"),
        _column(
            "seconds",
            "float",
            "candidate time: its share of what training and evaluating its packs took",
        ),
        _column("pack_size", "int", "candidates that were trained together"),
        _column("pack_mode", "text", "`vmap`, or `loop` where vmap refused the module"),
        _column("device", "text", "where it was trained"),
        _column("reason", "text", "why it failed or was stopped, as a stable word"),
        _column("created_at", "text", "when it was proposed, UTC, ISO 8601"),
        _column("finished_at", "text", "when its training ended, UTC, ISO 8601"),
        _PARAMS,
    ),
)
FRONT = TableKind(
    name="front",
    about="One row per member of the front, the cheapest first.",
    columns=(
        _STUDY,
        _column("place", "int", "from 1, by activated parameters or the cost that is compared"),
        _TRIAL,
        _column("is_knee", "bool", "whether it bulges farthest towards the good corner"),
        _column("reference", "text", "name of the reference design; empty for a searched one"),
        *_MEASURES,
        *_DESIGN,
        _PARAMS,
    ),
)
LAYERS = TableKind(
    name="layers",
    about="One row per layer of every candidate with measured routing.",
    columns=(
        _STUDY,
        _TRIAL,
        _column("layer*", "int", "from 0, the first after the input"),
        _column("num_experts*", "int", "open experts"),
        _column("mean_k*", "float", "mean experts per validation token"),
        _column("std_k*", "float", "its standard deviation over tokens"),
        _column("load_cv*", "float", "coefficient of variation of the load over open experts"),
        _column("max_share*", "float", "share of all expert calls that the busiest expert has"),
        _column("k_histogram", "ints", "tokens that used 0, 1, 2, ... experts"),
        _column("load", "floats", "share of the tokens that used each slot; sums to mean_k"),
        _column(
            "loss_by_k", "floats", "of text: mean loss of the tokens that used 0, 1, 2, ... experts"
        ),
    ),
)
PROGRESS = TableKind(
    name="progress",
    about="One row per candidate and epoch.",
    columns=(
        _STUDY,
        _TRIAL,
        _column("epoch*", "int", "epochs finished"),
        _column("train_loss*", "float", "mean training loss of the epoch"),
        _column("validation_loss*", "float", "mean cross-entropy on the validation part, in nats"),
        _column("accuracy*", "float", "on the validation part"),
        _column("activated_params*", "float", "mean parameters that a validation token used"),
        _column("mean_k_per_layer", "floats", "mean experts per token of each layer"),
        _column("experts_per_layer", "ints", "open experts of each layer"),
        _column("seconds", "float", "its share of the pack's time for the epoch"),
    ),
)
FAILURES = TableKind(
    name="failures",
    about="One row per failed candidate.",
    columns=(
        _STUDY,
        _TRIAL,
        _column(
            "reason*", "text", "stable word: `nan`, `out-of-memory`, `device-lost`, `exception`"
        ),
        _column("router*", "text", "kind of the router"),
        _column("schedule*", "text", "shape of the schedule"),
        _column("experts_per_layer*", "ints", "open experts of each layer"),
        _column("epochs*", "int", "epochs that it was trained"),
        _column("message", "text", "for people, with the traceback of an exception"),
    ),
)
DECISIONS = TableKind(
    name="decisions",
    about="One row per candidate and rung at which a pruner compared it.",
    columns=(
        _STUDY,
        _TRIAL,
        _column("rung*", "int", "epochs finished"),
        _column("action*", "text", "`go`, `pause` or `stop`"),
        _column("beaten*", "int", "rivals ahead of it"),
        _column("rivals*", "int", "others that reached the rung"),
        _column("strongest*", "int", "trial of the rival ahead of it with the lowest error"),
        _column("reason", "text", "why it did not go on"),
    ),
)
HYPERVOLUME = TableKind(
    name="hypervolume",
    about="One row per finished candidate: how good the front was by then, and what it had cost.",
    columns=(
        _STUDY,
        _column("finished*", "int", "candidates with an outcome so far"),
        _TRIAL,
        _column("epochs*", "int", "candidate-epochs trained so far"),
        _column("seconds", "float", "candidate time so far"),
        _column("hypervolume*", "float", "share of the box between ideal and reference, 0 to 1"),
    ),
)
IMPORTANCE = TableKind(
    name="importance",
    about="One row per objective, method and searched parameter.",
    columns=(
        _STUDY,
        _column("objective*", "text", "what is explained"),
        _column(
            "method*", "text", "`fanova` (variance over all) or `ped-anova` (the best quarter)"
        ),
        _column("parameter*", "text", "key of the study file"),
        _column("importance*", "float", "share; they sum to 1 per objective and method"),
        _column("candidates*", "int", "complete candidates that have the parameter"),
    ),
)
CONFIRMATION = TableKind(
    name="confirmation",
    about="One row per design that the command confirm trained again, measured on the test part.",
    columns=(
        _column("study", "text", "name of the study that has the runs"),
        _column("factor", "int", "how many times wider or longer than in the study"),
        _column("scale_by", "text", "what was scaled: `width` or `epochs`; empty if nothing was"),
        _column("design*", "text", "`trial-` and its number, or the name of a plain design"),
        _column("kind", "text", "`member` or `baseline`"),
        _column("activated_params*", "float", "mean parameters that a test token used"),
        _column("measure*", "text", "what is compared: the study's accuracy, or its first loss"),
        _column("test*", "float", "mean over the seeds, on the test part; perplexity: geometric"),
        _column("test_low*", "float", "lower end of its 95 % interval"),
        _column("test_high*", "float", "upper end of its 95 % interval"),
        _column("validation", "float", "mean over the seeds, on the validation part"),
        _column("seeds*", "int", "runs that came to their end"),
        _column("best_plain*", "text", "the best plain design of at most 1.05 times its size"),
        _column(
            "gain*", "float", "how much better than that design, mean over pairs; perplexity: share"
        ),
        _column("gain_low", "float", "lower end of its 95 % interval"),
        _column("gain_high", "float", "upper end of its 95 % interval"),
        _column(
            "verdict*",
            "text",
            "of a member: `stays`, `within noise`, `beaten`, or `open` with fewer than three seeds",
        ),
        _column("beaten_by", "text", "the design that is ahead of it"),
    ),
)
AUDIT = TableKind(
    name="audit",
    about="One row per answer of the command audit.",
    columns=(
        _column("study", "text", "name of the study that has the runs"),
        _column("claim*", "text", "name of the claim"),
        _column("subject*", "text", "which router, matching or design it is about"),
        _column("verdict*", "text", "`holds`, `does not hold` or `not decided`"),
        _column("effect*", "float", "what was measured, in the claim's unit"),
        _column("low*", "float", "lower end of its 95 % interval"),
        _column("high*", "float", "upper end of its 95 % interval"),
        _column("runs*", "int", "replicates behind it"),
        _column("margin", "float", "smallest effect of interest, in the same unit"),
        _column("p", "float", "of no effect, before correction"),
        _column("sentence", "text", "the answer in words"),
    ),
)
BUDGETS = TableKind(
    name="budgets",
    about="Studies side by side: one row per study and training budget (comparisons only).",
    columns=(
        _column("study*", "text", "name of the study"),
        _column("epochs*", "int", "candidate-epochs allowed, the same for all studies"),
        _column("finished*", "int", "candidates that were trained to their end by then"),
        _column("hypervolume*", "float", "of the front by then, on the common reference point"),
        _column("best*", "float", "best value of the measure upwards by then, e.g. the accuracy"),
        _column("cost_of_best*", "float", "what that candidate has of the measure across"),
    ),
)

OF_A_STUDY = (
    TRIALS,
    FRONT,
    LAYERS,
    PROGRESS,
    FAILURES,
    DECISIONS,
    HYPERVOLUME,
    IMPORTANCE,
    CONFIRMATION,
    AUDIT,
)
OF_A_COMPARISON = (FRONT, HYPERVOLUME, BUDGETS)
