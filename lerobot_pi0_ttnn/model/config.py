"""What pi0 and pi0.5 are made of: the sizes of each part, and the axis legend that every other file uses.

Axes, in names, comments and docstrings:

    B batch   T queries   S keys   P prefix tokens   N heads   K key/value heads   H head width   D width

The numbers are those of openpi `models/gemma.py`, `models/siglip.py` (So400m/14) and `models/pi0_config.py`.
"""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the SigLIP vision tower."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    layer_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_patches(self) -> int:
        """Tokens that one camera puts in the prefix."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class GemmaConfig:
    """Sizes of one Gemma transformer: the vision-language model or the action expert.

    `adaptive_norms`, as in pi0.5's expert: scale and shift of each norm, and the gate of its branch, come from the time.
    """

    width: int
    mlp_dim: int
    depth: int = 18
    num_heads: int = 8
    num_kv_heads: int = 1
    head_dim: int = 256
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    adaptive_norms: bool = False


GEMMA_2B = GemmaConfig(width=2048, mlp_dim=16384)
GEMMA_300M = GemmaConfig(width=1024, mlp_dim=4096)

GEMMA_VARIANTS = {"gemma_2b": GEMMA_2B, "gemma_300m": GEMMA_300M}
"""The names that LeRobot's `PI0Config.paligemma_variant` and `.action_expert_variant` accept."""


@dataclass(frozen=True)
class PI0ModelConfig:
    """Sizes of the whole model. `PI0ModelConfig()` is pi0_base, `PI05_BASE` is pi05_base.

    `state_dim` is the width of the state that is a token; 0 where there is none, since the state is in the prompt (pi0.5).

    Raises:
        ValueError: where the vision-language model and the expert cannot share one key/value cache, or where something that is
            computed once for all steps would depend on the time.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    vlm: GemmaConfig = GEMMA_2B
    expert: GemmaConfig = GEMMA_300M
    vocab_size: int = 257_152
    state_dim: int = 32
    action_dim: int = 32
    horizon: int = 50
    num_steps: int = 10
    min_period: float = 4e-3
    max_period: float = 4.0

    @property
    def state_tokens(self) -> int:
        """Returns how many tokens the state is, before the actions: one, or none where it is in the prompt."""
        return 1 if self.state_dim else 0

    @property
    def suffix_tokens(self) -> int:
        """Returns how many tokens follow the prefix: the state's and those of the actions."""
        return self.state_tokens + self.horizon

    def __post_init__(self) -> None:
        for name in ("depth", "num_heads", "num_kv_heads", "head_dim"):
            vlm, expert = getattr(self.vlm, name), getattr(self.expert, name)
            if vlm != expert:
                raise ValueError(
                    f"{name}: expected the same in the vision-language model and in the expert, which attend to one "
                    f"key/value cache, got {vlm} and {expert}"
                )
        if self.vlm.adaptive_norms:
            raise ValueError(
                "vlm.adaptive_norms: expected False, since the prefix is computed once for all steps; got True"
            )
        if self.expert.adaptive_norms and self.state_dim:
            raise ValueError(
                "state_dim: expected 0 beside expert.adaptive_norms, since pi0.5 reads its state in the prompt; "
                f"got {self.state_dim}"
            )


def as_pi05(config: PI0ModelConfig) -> PI0ModelConfig:
    """Returns pi0.5 of these sizes: the time is in the expert's norms, the state in the prompt.

    Source: openpi `models/pi0.py`, where `pi05` is set.
    """
    return replace(config, expert=replace(config.expert, adaptive_norms=True), state_dim=0)


PI0_BASE = PI0ModelConfig()
PI05_BASE = as_pi05(PI0_BASE)

TINY = PI0ModelConfig(
    vision=VisionConfig(hidden_size=96, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4),
    vlm=GemmaConfig(width=128, mlp_dim=256, depth=3, head_dim=32),
    expert=GemmaConfig(width=64, mlp_dim=128, depth=3, head_dim=32),
    vocab_size=512,
)
"""All of pi0_base at a thousandth of its size, with its awkward ratios: SigLIP heads of 24 (no multiple of a tile) and
a SigLIP MLP of five and a half tiles, queries wider than the expert, a first, an inner and a last layer."""

TINY_PI05 = as_pi05(TINY)
