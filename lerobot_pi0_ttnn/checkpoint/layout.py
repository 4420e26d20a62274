"""The names under which the tensors of pi0 and pi0.5 are saved: one table from each of them to ours.

Which LeRobot, openpi or transformers release wrote a file shows in its names only. Our own are LeRobot 0.6's without
the leading `model.` (see `model/tensors.py`). A superset of LeRobot's `PI0Policy._fix_pytorch_state_dict_keys`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..model.tensors import LANGUAGE_MODEL

EMBEDDING = f"{LANGUAGE_MODEL}.embed_tokens.weight"
LM_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
UNUSED_HEAD = "the unused language head"

RENAMES = (
    # LeRobot's policy wraps the model; openpi's files and the Hub's pi0_base do not.
    (re.compile(r"^model\.(?=paligemma_with_expert\.|state_proj\.|action_|time_mlp_)"), ""),
    # transformers < 4.52, hence LeRobot <= 0.3.
    (re.compile(r"^(paligemma_with_expert\.paligemma)\.language_model\.lm_head\."), r"\1.lm_head."),
    (re.compile(r"^(paligemma_with_expert\.paligemma)\.language_model\.model\."), r"\1.model.language_model."),
    (re.compile(r"^(paligemma_with_expert\.paligemma)\.(vision_tower|multi_modal_projector)\."), r"\1.model.\2."),
)

ADAPTIVE_NORM = re.compile(r"\.gemma_expert\..*norm\.dense\.")
"""In pi0.5 alone the expert's norms have a layer that makes their scale, shift and gate."""
OTHER_NAME = {
    False: (re.compile(r"^time_mlp_"), "action_time_mlp_"),
    True: (re.compile(r"^action_time_mlp_"), "time_mlp_"),
}
"""By whether it is pi0.5: the time MLP is also saved under the other model's name."""
STATE_PROJ = re.compile(r"^state_proj\.")
MODELS = {"pi0": "pi0", "pi0_ttnn": "pi0", "pi05": "pi0.5", "pi05_ttnn": "pi0.5"}
"""By the policy type that config.json names."""
OWN_MODULES = {
    "pi0": re.compile(r"\.(?:state_proj|action_time_mlp_\w+)\."),
    "pi0.5": re.compile(r"\.time_mlp_\w+\.|norm\.dense\."),
}
"""Names that only one of the two models has, as PEFT writes them."""

IGNORED = (
    (re.compile(r"^paligemma_with_expert\.gemma_expert\.lm_head\."), "the expert's unused language head"),
    (re.compile(r"\.rotary_emb\.inv_freq$"), "RoPE frequencies, computed instead"),
    (re.compile(r"\.embeddings\.position_ids$"), "patch numbers, counted instead"),
    (re.compile(r"^(un)?normalize_(inputs|outputs|targets)\."), "statistics of LeRobot <= 0.3, which `convert` moves"),
)


@dataclass
class Layout:
    """How the tensors of a checkpoint are named."""

    names: dict[str, str] = field(default_factory=dict)
    """Our name -> the checkpoint's."""
    ignored: dict[str, str] = field(default_factory=dict)
    """The checkpoint's name -> why it is not needed."""
    traits: list[str] = field(default_factory=list)
    """What is particular about the names, for people to read."""
    model: str = "pi0"
    """Whose they are: `pi0` or `pi0.5`."""


def canonical(name: str) -> str:
    """Returns our name for a checkpoint's tensor; a name of ours is returned as it is."""
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return name


def why_ignored(ours: str) -> str | None:
    """Returns why the model does not need a tensor of this name, whatever else there is; None where it may."""
    return next((reason for pattern, reason in IGNORED if pattern.search(ours)), None)


def recognise(saved_names: Iterable[str], where: str) -> Layout:
    """Returns how each tensor of a checkpoint is to be used.

    Args:
        saved_names: the names in the files.
        where: what to call the checkpoint in errors.

    Raises:
        ValueError: it is a checkpoint of another model, or two of its tensors claim one name.
    """
    saved = sorted(saved_names)
    _refuse_other_models(saved, where)
    is_pi05 = any(ADAPTIVE_NORM.search(name) for name in saved)
    layout = Layout(model="pi0.5" if is_pi05 else "pi0")
    other_name, own_name = OTHER_NAME[is_pi05]
    for name in saved:
        ours = other_name.sub(own_name, canonical(name))
        reason = why_ignored(ours)
        if is_pi05 and STATE_PROJ.match(ours):
            reason = "pi0's state token: pi0.5 has the state in the prompt"
        if reason is not None:
            layout.ignored[name] = reason
        elif ours in layout.names:
            raise ValueError(
                f"{where}: {name} and {layout.names[ours]} are both {ours}; save the model again from one of them."
            )
        else:
            layout.names[ours] = name
    head = layout.names.pop(LM_HEAD, None)
    if head is not None and EMBEDDING in layout.names:
        layout.ignored[head] = UNUSED_HEAD
    elif head is not None:
        layout.names[EMBEDDING] = head
    layout.traits = _traits(saved, head, layout)
    if is_pi05:
        layout.traits.insert(0, layout.model)
    return layout


def _traits(saved: list[str], head: str | None, layout: Layout) -> list[str]:
    traits = ["prefix `model.`" if any(name.startswith("model.") for name in saved) else "no prefix"]
    if head is not None and layout.names.get(EMBEDDING) == head:
        traits.append("embedding tied to lm_head")
    other_name, _ = OTHER_NAME[layout.model == "pi0.5"]
    traits += sorted({f"{found[0]}*" for name in saved if (found := other_name.match(canonical(name)))})
    if any(".paligemma.language_model." in name for name in saved):
        traits.append("LeRobot <= 0.3")
    return traits


def _refuse_other_models(saved: list[str], where: str) -> None:
    if any(".vlm_with_expert." in f".{name}" for name in saved):
        raise ValueError(
            f"{where}: this is a SmolVLA checkpoint; this package runs pi0 and pi0.5 only, use --policy.type=smolvla."
        )
    if not any("paligemma_with_expert." in name for name in saved):
        raise ValueError(
            f"{where}: expected the tensors of pi0 or pi0.5 (paligemma_with_expert...), got {len(saved)} others"
            f"{', such as ' + saved[0] if saved else ''}; give a checkpoint of one of them."
        )
