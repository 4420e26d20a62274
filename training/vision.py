"""A stand-in for SigLIP's own pretraining: tower and projector learn to find the object and the hand in the picture.

Trained from nothing on actions alone, a tower of this size learns little of a picture within the time. The head that reads the
two places is thrown away; it looks as the expert can: attention by content, then a linear map.
"""

import math

import torch
import torch.nn.functional as F
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from torch import Tensor, nn
from tqdm import tqdm

from lerobot_pi0_ttnn.model.config import TINY

from .data import Frames, vary_colours
from .model import IMAGE_SIZE

SHIFT = 14
"""Pixels, at most, that a picture is moved by: places are learned for the whole picture, not by heart."""
SCALE = 4.0
"""Places are learned in quarters of a picture's side from its middle, so that they are about one."""
BATCH, RATE = 48, 2e-3


class PlaceHead(nn.Module):
    """Where the object of each task and the hand are, read from the tokens of a picture."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(TINY.vlm.width)
        self.score = nn.Linear(TINY.vlm.width, tasks + 1)
        self.place = nn.Linear(TINY.vlm.width, (tasks + 1) * 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns (B, tasks + 1, 2) of image tokens (B, N, width); the hand is the last."""
        tokens = self.norm(tokens)
        weights = self.score(tokens).softmax(1)
        places: Tensor = (weights[..., None] * self.place(tokens).unflatten(-1, (-1, 2))).sum(1)
        return places


def pretrain(policy: PI0Policy, frames: Frames, *, steps: int, seed: int) -> None:
    """Trains the vision tower and the projector of a policy in place.

    Args:
        policy: LeRobot's.
        frames: the demonstrations.
        steps: of 48 pictures each.
        seed: of everything drawn.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    backbone, head = policy.model.paligemma_with_expert, PlaceHead(len(frames.prompts))
    parts = [p for name, p in policy.named_parameters() if "vision_tower" in name or "multi_modal_projector" in name]
    trained = [*parts, *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.95), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_cosine(step, steps))
    rows = frames.rows(held_out=False)

    def errors(chosen: Tensor, images: Tensor, moved: Tensor | float) -> tuple[Tensor, Tensor]:
        places = head(backbone.embed_image(images * 2 - 1))  # as PI0Policy scales them
        numbers = torch.arange(len(chosen))
        wanted = [(place[chosen] + moved - 0.5) * SCALE for place in (frames.object_pixel, frames.hand_pixel)]
        return places[numbers, frames.task[chosen]] - wanted[0], places[:, -1] - wanted[1]

    bar = tqdm(range(steps), desc="vision", mininterval=10, smoothing=0.02)
    for _ in bar:
        chosen = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
        images, moved = shift(frames.images(chosen), generator)
        of_object, of_hand = errors(chosen, vary_colours(images, generator), moved)
        loss = huber(of_object) + 0.3 * huber(of_hand)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch's
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    held_out = frames.rows(held_out=True)
    with torch.no_grad():
        found = [errors(chosen, frames.images(chosen), 0.0) for chosen in torch.split(held_out, 64)]
    off = torch.cat([of_object for of_object, _ in found]).norm(dim=-1) / SCALE * IMAGE_SIZE
    hand_off = torch.cat([of_hand for _, of_hand in found]).norm(dim=-1) / SCALE * IMAGE_SIZE
    by_task = [f"{off[frames.task[held_out] == task].mean().item():.1f}" for task in range(len(frames.prompts))]
    print(f"vision: held-out error, pixels of {IMAGE_SIZE}: objects {' '.join(by_task)}, hand {hand_off.mean():.1f}")


def shift(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns pictures moved by up to `SHIFT` pixels, edges repeated, and by how much: (B, 2), fractions of their side."""
    side = images.shape[-1]
    padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
    moved = torch.randint(-SHIFT, SHIFT + 1, (len(images), 2), generator=generator)
    corners = (SHIFT - moved).tolist()
    cut = [picture[:, y : y + side, x : x + side] for picture, (x, y) in zip(padded, corners, strict=True)]
    return torch.stack(cut), moved.float() / side


def huber(error: Tensor) -> Tensor:
    """Returns the mean smooth L1 of an error."""
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)


def warm_up_cosine(step: int, steps: int) -> float:
    """Returns the factor of the learning rate: up over 100 steps, then down along a cosine to a fiftieth."""
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
