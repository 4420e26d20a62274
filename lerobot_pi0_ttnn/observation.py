"""LeRobot's batch to what the model takes: the only reader of batch keys, and where bad input is rejected."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .frames import BLACK, Resizer
from .model.observation import Observation

logger = logging.getLogger(__name__)

STATE = "observation.state"
TOKENS = "observation.language.tokens"
TOKENS_MASK = "observation.language.attention_mask"
TASK = "task"
STATE_IN_PROMPT = ", State: "
"""What stands between the task and the state in pi0.5's prompts (`Pi05PrepareStateTokenizerProcessorStep`)."""
TOKENIZES = "the tokenizer step of the policy's preprocessor (policy_preprocessor.json): pass batches through it"
NEWLINE = 108
"""PaliGemma's token for a line break. LeRobot's pi0 ends each prompt with one (`Pi0NewLineProcessor`)."""
FAR_OUT = 0.25
"""How far pixels may be out of [0, 1]: more than any filter overshoots, less than any other scale than [0, 1] needs."""


@dataclass
class ObservationReader:
    """Reads the batches of one policy.

    Args:
        cameras: batch keys of the cameras, in the order of training.
        image_size: height and width that the model takes.
        state_dim: width that the model takes; 0 where it takes none, as pi0.5, whose prompt holds the state.
        vocab_size: tokens are below it.
        aliases: another batch key -> the camera that it is, where the batch lacks that camera's own.
    """

    cameras: Sequence[str]
    image_size: int
    state_dim: int
    vocab_size: int
    aliases: Mapping[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list, repr=False)
    """What was warned of, each once. Whoever takes them empties the list."""
    _warned: set[object] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self._resize = Resizer(self.image_size)

    def __call__(self, batch: Mapping[str, object]) -> Observation:
        """Returns the batch as the model takes it. Source: LeRobot `PI0Policy._preprocess_images`, `.prepare_state`.

        Args:
            batch: LeRobot's preprocessed batch. Images (B, 3, H, W) or (B, H, W, 3), float32 in [0, 1] or uint8, state
                (B, n) normalised, tokens (B, L) int64 and their mask (B, L) bool. A camera's key may be absent; other keys
                are not read.

        Raises:
            KeyError: a key is missing that cannot be.
            TypeError: an entry is of the wrong dtype.
            ValueError: an entry is of the wrong shape or far out of range, or not finite.
        """
        state = self.state(batch)
        lang_tokens, lang_masks = self._language(batch, rows=state.shape[0])
        images, img_masks = self.images(batch, rows=state.shape[0])
        return Observation(images, img_masks, lang_tokens, lang_masks, state)

    def state(self, batch: Mapping[str, object]) -> Tensor:
        """Returns the state of `__call__`, zero-padded; (B, 0) where the model takes none."""
        if not self.state_dim:
            return self._no_state(batch)
        state = _tensor(batch, STATE, "the robot's or the environment's joint state")
        if state.ndim != 2:
            raise ValueError(f"{STATE}: expected (batch, n), got {tuple(state.shape)}; add the batch dimension.")
        if state.shape[1] > self.state_dim:
            raise ValueError(
                f"{STATE}: expected at most {self.state_dim} values, got {state.shape[1]}; the model was trained with no more: "
                "drop the ones that the checkpoint was not trained on."
            )
        return F.pad(_finite(state), (0, self.state_dim - state.shape[1]))

    def _no_state(self, batch: Mapping[str, object]) -> Tensor:
        """Returns (B, 0). The prompt that holds the state shows no more that it was not finite: that is the last bin."""
        if STATE in batch:
            _finite(_tensor(batch, STATE, "the robot"))
        return torch.empty(len(_tensor(batch, TOKENS, TOKENIZES)), 0)

    def _language(self, batch: Mapping[str, object], rows: int) -> tuple[Tensor, Tensor]:
        tokens, mask = _tensor(batch, TOKENS, TOKENIZES), _tensor(batch, TOKENS_MASK, TOKENIZES)
        if tokens.ndim != 2 or tokens.shape[0] != rows or mask.shape != tokens.shape:
            raise ValueError(
                f"{TOKENS}: expected ({rows}, L) and {TOKENS_MASK} alike, got {tuple(tokens.shape)} and "
                f"{tuple(mask.shape)}; the state has {rows} row(s)."
            )
        if tokens.is_floating_point():
            raise TypeError(f"{TOKENS}: expected int64 token ids, got {tokens.dtype}.")
        tokens, mask = tokens.detach().cpu().long(), mask.detach().cpu().bool()
        low, high = (int(x) for x in tokens.aminmax()) if tokens.numel() else (0, 0)
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"{TOKENS}: expected ids from 0 to {self.vocab_size - 1}, got {low} to {high}; use the tokenizer that the "
                "checkpoint was trained with."
            )
        if bool(mask.all(dim=1).any()):
            self._check_ends(tokens[mask.all(dim=1)], _texts(batch, mask))
        return tokens, mask

    def _check_ends(self, tokens: Tensor, texts: Sequence[str | None]) -> None:
        """Warns, once for each, of prompts that the tokenizer has cut: it keeps as many tokens as fit, and says nothing.

        Args:
            tokens: (n, L), of prompts without padding.
            texts: what they say, where that is known.
        """
        for ids, text in zip(tokens.tolist(), texts, strict=True):
            breaks = len(re.findall(r"(?<!\n)\n(?!\n)", text or "\n"))
            # pi0.5's prompts end otherwise: what fills all tokens has hardly ended by chance just there.
            if not self.state_dim or ids[-1] != NEWLINE or ids.count(NEWLINE) < breaks:
                # Between pi0.5's ticks only the state changes.
                task = text if self.state_dim or not text else text.rpartition(STATE_IN_PROMPT)[0] or text
                said = f" {task.strip()!r}" if task else ""
                self._warn_once(
                    ("prompt", tuple(ids) if self.state_dim else task),
                    f"the prompt{said} was cut at {len(ids)} tokens (tokenizer_max_length), so its end is lost: say it in "
                    "fewer words, as in training. A larger max_length of tokenizer_processor (policy_preprocessor.json) helps "
                    "only if it was trained with that.",
                )

    def images(self, batch: Mapping[str, object], rows: int) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the images and masks of `__call__`, for a batch of so many rows."""
        keys = {self.aliases[key]: key for key in batch if key in self.aliases}
        keys |= {key: key for key in self.cameras if key in batch}
        present = [key for key in self.cameras if key in keys]
        unknown = [
            key
            for key in batch
            if key.startswith("observation.image") and key not in self.cameras and key not in self.aliases
        ]
        if not present:
            raise KeyError(
                f"none of the policy's cameras {list(self.cameras)} is in the batch, which has "
                f"{unknown or sorted(batch)}; rename them, e.g. "
                f'--rename_map=\'{{"{unknown[0] if unknown else "observation.images.x"}": "{_first(self.cameras)}"}}\'.'
            )
        absent = [key for key in self.cameras if key not in keys]
        if absent and unknown:
            self._warn_once(
                "cameras",
                f"the batch has {unknown}, which the policy does not know, and lacks {absent}, which then count as absent "
                "cameras; if they are the same, use --rename_map.",
            )
        images = [self._image(key, _tensor(batch, keys[key], "a camera"), rows) for key in present]
        shape = (rows, 3, self.image_size, self.image_size)
        images += [torch.full((1, 1, 1, 1), BLACK).expand(shape) for _ in absent]
        masks = [torch.ones(rows, dtype=torch.bool) for _ in present] + [
            torch.zeros(rows, dtype=torch.bool) for _ in absent
        ]
        return images, masks

    def _image(self, key: str, image: Tensor, rows: int) -> Tensor:
        if not (image.is_floating_point() or image.dtype == torch.uint8):
            raise TypeError(f"{key}: expected float32 in [0, 1] or uint8, got {image.dtype}.")
        if image.ndim != 4 or 3 not in (image.shape[1], image.shape[-1]) or image.shape[0] != rows or not image.numel():
            raise ValueError(
                f"{key}: expected ({rows}, 3, H, W) or ({rows}, H, W, 3) for a state of {rows} row(s), got "
                f"{tuple(image.shape)}; the model takes pictures in colours, no depth, no gray, no alpha channel."
            )
        image, low, high = self._resize(image.detach().cpu())
        self._check_range(key, low, high)
        return image

    def _check_range(self, key: str, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{key}: holds NaN or infinity; check the camera.")
        seen = f"{key}: expected values in [0, 1], got {low:.3g} to {high:.3g}"
        if low < -FAR_OUT or high > 1.0 + FAR_OUT:
            raise ValueError(
                f"{seen}; the picture would be lost. Give uint8, or divide by 255 once, and leave images out of the "
                "normalisation."
            )
        if low < -0.01 or high > 1.01:
            self._warn_once(key, f"{seen}; what is out of range is cut off: look at what scales this camera's frames.")
        elif 0.0 < high <= 1.0 / 255:
            self._warn_once(
                key, f"{seen}, which is black: is the lens covered, or were the frames divided by 255 twice?"
            )

    def _warn_once(self, subject: object, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            self.warnings.append(message)
            logger.warning(message)


def _tensor(batch: Mapping[str, object], key: str, made_by: str) -> Tensor:
    if key not in batch:
        raise KeyError(f"{key} is not in the batch, which has {sorted(batch)}; it comes from {made_by}.")
    value = batch[key]
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{key}: expected a tensor, got {type(value).__name__}; pass the batch through the preprocessor."
        )
    return value


def _texts(batch: Mapping[str, object], mask: Tensor) -> list[str | None]:
    """Returns the prompts of the rows that have no padding; None where the batch does not hold them."""
    tasks = batch.get(TASK)
    tasks = [tasks] * len(mask) if isinstance(tasks, str) else tasks
    texts = list(tasks) if isinstance(tasks, Sequence) and len(tasks) == len(mask) else [None] * len(mask)
    return [text for text, is_full in zip(texts, mask.all(dim=1).tolist(), strict=True) if is_full]


def _finite(state: Tensor) -> Tensor:
    """Returns (B, n) float32 on the CPU."""
    state = state.detach().cpu().float()
    if not bool(torch.isfinite(state).all()):
        rows = (~torch.isfinite(state).flatten(1).all(dim=1)).nonzero().squeeze(1).tolist()
        raise ValueError(
            f"{STATE}: holds NaN or infinity in row(s) {rows}; check the sensors, and the normalisation statistics for a "
            "spread that is zero or missing."
        )
    return state


def _first(cameras: Sequence[str]) -> str:
    return cameras[0] if cameras else "observation.images.y"
