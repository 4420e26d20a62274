"""Fields of config.json that other releases of LeRobot write and 0.6 does not know: which change nothing, and which would.

draccus, with which LeRobot reads a config, refuses a file for any field that it does not know.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

RTC = "rtc_config"
RENAMED = {"num_steps": "num_inference_steps"}
"""LeRobot <= 0.3's name -> 0.6's."""


@dataclass(frozen=True)
class OtherField:
    """A field that LeRobot 0.6 does not have."""

    harmless: Collection[Any] | None = None
    """With these values it changes nothing; None: with any."""
    reason: str = ""
    """What another value would mean, and what to do."""


MEMORY = OtherField(
    (False, None),
    "a model that sees earlier observations, which this package does not run; use the LeRobot that trained it",
)
OTHERS: Mapping[str, OtherField] = {
    # LeRobot <= 0.3.
    "resize_imgs_with_padding": OtherField(
        ([224, 224], None), "pictures of another size; set image_resolution instead"
    ),
    "adapt_to_pi_aloha": OtherField(
        (False, None),
        "ALOHA's joints and grippers converted inside the policy, as LeRobot does no more; train it again with 0.6",
    ),
    "use_delta_joint_actions_aloha": OtherField(
        (False, None), "actions relative to the state; if it was trained so, set use_relative_actions instead"
    ),
    "proj_width": OtherField(),
    "use_cache": OtherField(),
    "attention_implementation": OtherField(),
    "train_state_proj": OtherField(),
    # LeRobot's main after 0.6.1.
    "rtc_training_max_delay": OtherField(
        (0, None),
        "a model trained to continue a prefix of the former chunk, each action at a time of its own, which this package does "
        "not run; with 0 it runs as any other, and real-time chunking guides it",
    ),
    "use_visual_memory": MEMORY,
    "use_proprioceptive_memory": MEMORY,
    "memory_frames": OtherField(),
    "memory_stride": OtherField(),
    "memory_temporal_attention_every": OtherField(),
}
OTHERS_OF_RTC: Mapping[str, OtherField] = {
    "mode": OtherField(
        ("guided", None),
        "a prefix that the model was trained to continue, which only LeRobot's pi0.5 is; set it to guided",
    ),
}


@dataclass(frozen=True)
class Settled:
    """A config's fields as LeRobot 0.6 takes them."""

    fields: dict[str, Any]
    left_out: list[str] = field(default_factory=list)
    """Names of those that change nothing."""


def settle_fields(fields: Mapping[str, Any], known: Collection[str], known_of_rtc: Collection[str]) -> Settled:
    """Returns the fields that LeRobot 0.6 knows, with the names that it gives them.

    Args:
        fields: those of a config.json, or of what a command line made of it.
        known: names that the config class has.
        known_of_rtc: names that the class of its `rtc_config` has.

    Raises:
        ValueError: a field that would change what the policy does, or of which that is not known; each with the fix.
    """
    wrong: list[str] = []
    kept, left_out = _settle(fields, known, OTHERS, wrong)
    for old, new in RENAMED.items():
        if old in fields and old not in known:
            kept.setdefault(new, fields[old])
    rtc = kept.get(RTC)
    if isinstance(rtc, dict):
        kept[RTC], of_rtc = _settle(rtc, known_of_rtc, OTHERS_OF_RTC, wrong, prefix=f"{RTC}.")
        left_out += of_rtc
    if wrong:
        raise ValueError("; ".join(wrong))
    return Settled(kept, left_out)


def _settle(
    fields: Mapping[str, Any],
    known: Collection[str],
    others: Mapping[str, OtherField],
    wrong: list[str],
    prefix: str = "",
) -> tuple[dict[str, Any], list[str]]:
    kept, left_out = {}, []
    for name, value in sorted(fields.items()):
        other = others.get(name)
        if other is not None and other.harmless is not None and value not in other.harmless:
            wrong.append(f"{prefix}{name} is {value!r}: {other.reason}")
        elif name in known:
            kept[name] = value
        elif other is not None:
            left_out.append(prefix + name)
        elif name not in RENAMED or prefix:
            wrong.append(
                f"{prefix}{name} ({value!r}) is a field of no LeRobot release that this package knows: use the release that "
                "wrote it, or, if it does not change what the model computes, take it out of config.json"
            )
    return kept, left_out
