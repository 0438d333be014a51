"""Reward models and critics: a causal backbone and a linear head that reads every token."""

from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from common.checkpoints import (
    HEADS,
    fill,
    head_of,
    how_to_load,
    kind_of,
    load_weights,
    read_config,
    refuse_names,
    save_weights,
)
from common.flags import InputError
from common.models import load_policy
from common.seeds import seed_of
from common.tensors import find_file, save_tensors

# The classes of an outcome reward model and their rewards (CodeRL, Le et al., 2022, eq. 4).
OUTCOME_REWARDS = {"syntax_error": -1.0, "runtime_error": -0.6, "failed_test": -0.3, "passed": 1.0}
HEAD_FILE = "head.safetensors"  # the head of a `BackboneWithHead`


class BackboneWithHead(nn.Module):
    """A token classifier for the architectures for which transformers has none.

    On disk: the backbone in the layout of Hugging Face, and HEAD_FILE with `weight` (C, H) and
    `bias` (C,) beside config.json.
    """

    _tied_weights_keys = None

    def __init__(self, backbone, head: nn.Linear):
        super().__init__()
        self.backbone, self.score, self.config = backbone, head, backbone.config
        self._no_split_modules = backbone._no_split_modules
        files = getattr(backbone, "weight_files", {})
        self.weight_files = {f"backbone.{name}": place for name, place in files.items()}

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        """`.logits` (B, L, C) of input_ids (B, L)."""
        out = self.backbone(input_ids=input_ids, use_cache=False)
        return SimpleNamespace(logits=self.score(out.last_hidden_state))

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def get_output_embeddings(self) -> None:
        return None

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the folder. All ranks must call this together."""
        save_weights(self.backbone, Path(folder))
        save_tensors(Path(folder), Path(HEAD_FILE).stem, self.score.state_dict())


def _new_head(backbone, num_labels: int) -> nn.Linear:
    """A head of zeros. The width of the hidden states is not the config's in every architecture."""
    with torch.no_grad():
        ids = torch.zeros(1, 1, dtype=torch.long)
        hidden = backbone.eval()(input_ids=ids, use_cache=False).last_hidden_state
    head = nn.Linear(hidden.shape[-1], num_labels)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _saved_head(path: str | Path, num_labels: int) -> nn.Linear:
    try:
        state = load_file(find_file(path, HEAD_FILE) or Path(path) / HEAD_FILE)
        head = nn.Linear(state["weight"].shape[1], num_labels)
        head.load_state_dict(state)
    except Exception as error:  # a missing or damaged file, other names, other shapes
        words = " ".join(str(error).split())
        raise InputError(f"{path}: {HEAD_FILE} cannot be loaded: {words[:200]}") from None
    return head


def load_scorer(
    path: str | Path,
    num_labels: int | None = None,
    wanted: str = "backbone",
    headers_only: bool = False,
    run_config=None,
):
    """A reward model or critic in float32; from a policy's folder its head starts at zero.

    num_labels: outputs of a new head; of a trained one, InputError where they are others. None
    takes a trained head as it is, and a new one has 1. A trained head of two labels (wrong, right)
    becomes one output, logit 1 - logit 0. wanted: a key of ACCEPTED; headers_only and run_config:
    as in `checkpoints.how_to_load`; the head is read at once.
    """
    weights = how_to_load(headers_only, run_config)
    config = read_config(path, wanted)
    new_head = kind_of(path, config) == "policy"
    if new_head:
        load_policy(path, headers_only=True)  # what the classifier does not read is whole as well
        config.num_labels = num_labels or 1
    else:
        _check_outputs(path, config, num_labels)
    config.classifier_dropout = 0.0
    has_class = type(config) in transformers.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    if has_class and (new_head or not find_file(path, HEAD_FILE)):
        model = _load_classifier(path, config, new_head, weights)
    else:
        model = _load_backbone(path, config, new_head, weights)
    if not new_head and config.num_labels == 2:
        _join_labels(model)
    return model


def _load_classifier(path: str | Path, config, new_head: bool, weights: str):
    """A token classifier of transformers."""
    auto_class = transformers.AutoModelForTokenClassification
    model, missing, unexpected = load_weights(auto_class, path, config, weights)
    starts_at_zero = {name for name in missing if name.startswith(HEADS)}
    if not new_head:  # the head of a sequence classifier is the same without a bias
        sequence = (config.architectures or [""])[0].endswith("ForSequenceClassification")
        starts_at_zero = {name for name in starts_at_zero if sequence and name.endswith(".bias")}
        refuse_names(path, [], unexpected)
    refuse_names(path, sorted(set(missing) - starts_at_zero), [])
    for name in starts_at_zero:
        nn.init.zeros_(model.get_parameter(name))
    fill(model, "cpu", HEADS)
    return model


def _load_backbone(path: str | Path, config, new_head: bool, weights: str):
    """A BackboneWithHead; where its head is new and only headers are read, the bare backbone."""
    auto_class = transformers.AutoModel
    model, missing, unexpected = load_weights(auto_class, path, config, weights)
    refuse_names(path, missing, [] if new_head else unexpected)
    if not new_head:
        return BackboneWithHead(model, _saved_head(path, config.num_labels))
    if weights == "headers":
        return model
    late = weights == "late"  # weights on meta give no hidden states, zeros do
    readable = load_weights(auto_class, path, config, "headers")[0] if late else model
    return BackboneWithHead(model, _new_head(readable, config.num_labels))


def _check_outputs(path: str | Path, config, num_labels: int | None) -> None:
    """Raises InputError for a trained head that is not read as its config says."""
    activation = getattr(config, "score_activation", "none")
    if activation not in ("none", "sigmoid_signed", "expected_outcome"):
        raise InputError(f"{path}: config.json: score_activation {activation!r} is not known")
    outputs = config.num_labels
    fits = (len(OUTCOME_REWARDS),) if activation == "expected_outcome" else (1, 2)
    if outputs not in fits:
        words = " or ".join(map(str, fits))
        raise InputError(f"{path}: config.json: {outputs} labels; score_activation needs {words}")
    if num_labels and (1 if outputs == 2 else outputs) != num_labels:
        raise InputError(
            f"{path}: its weights do not fit: a reward model with {outputs} outputs, not "
            f"{num_labels}"
        )


@torch.no_grad()
def _join_labels(model) -> None:
    """Puts a head with one output, logit 1 - logit 0, in the place of one with two."""
    name, old = next((name, getattr(model, name)) for name in HEADS if hasattr(model, name))
    head = nn.Linear(old.in_features, 1, bias=old.bias is not None)
    head.weight.copy_(old.weight[1:] - old.weight[:1])
    if old.bias is not None:
        head.bias.copy_(old.bias[1:] - old.bias[:1])
    setattr(model, name, head)
    model.num_labels = model.config.num_labels = 1


def load_critic(config, checkpoint: Path | None):
    """The critic: a token classifier whose logit is the value. In a new run config.value_init says
    where it starts: "prm": as config.prm, head and all; "policy": as the policy, with a head of
    zeros; "none": as the policy, with a random head, as TRL's starts."""
    if checkpoint:
        return load_scorer(checkpoint / "critic", wanted="critic", run_config=config)
    path = config.prm if config.value_init == "prm" else config.model_name_or_path
    critic = load_scorer(path, wanted="critic", run_config=config)
    if getattr(critic.config, "score_activation", "none") != "none":
        raise InputError(f"{path}: a critic's values are logits; its score_activation is not none")
    critic.config.reward_model_kind = "critic"
    if config.value_init == "none":
        generator = torch.Generator().manual_seed(seed_of(config.seed, "value head"))
        std = getattr(critic.config, "initializer_range", 0.02)
        with torch.no_grad():
            head_of(critic).weight.normal_(0.0, std, generator=generator)
    return critic
