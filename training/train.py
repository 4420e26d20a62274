"""LeRobot's `PI0Policy` or `PI05Policy` trained by its own loss, `forward`, on the demonstrations."""

from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from torch import Tensor, nn
from tqdm import tqdm

from lerobot_pi0_ttnn.checkpoint.tokenizer import FOLDER

from .data import Frames, vary_colours
from .model import ACTION_DIM, CHUNK, Policy, Statistics, embed_numbers, make_processors, save
from .vision import warm_up_cosine

BATCH, RATE, EMA = 32, 8e-4, 0.996
VALIDATE_EVERY = 1000


def statistics(frames: Frames) -> Statistics:
    """Returns mean and standard deviation of the states and of the actions of all chunks, and the outer quantiles."""
    features = {"observation.state": frames.state, "action": frames.action.flatten(0, 1)}
    return {
        name: {"mean": rows.mean(0), "std": rows.std(0)}
        | {
            f"q{percent:02}": torch.from_numpy(np.percentile(rows.numpy(), percent, axis=0)).float()
            for percent in (1, 99)
        }
        for name, rows in features.items()
    }


def train(policy: Policy, frames: Frames, folder: Path, *, steps: int, seed: int, vocabulary: list[str]) -> None:
    """Trains a policy and saves the moving average of its weights, on the way and at the end.

    pi0 pads actions to 32 values. Here three of the padding, where the object is from the hand, are trained as actions are:
    what the expert has to know anyway, learned sooner. The saved config names the four that are actions.

    Args:
        policy: LeRobot's, changed in place; it ends with the averaged weights.
        frames: the demonstrations.
        folder: the checkpoint's.
        steps: of 32 frames each.
        seed: of everything drawn.
        vocabulary: prompts whose words the tokenizer is to know.
    """
    torch.manual_seed(seed)  # LeRobot draws noise and times of the flow without a generator
    generator = torch.Generator().manual_seed(seed)
    measured = statistics(frames)
    preprocess, _ = make_processors(measured, vocabulary, folder, policy.name)
    if policy.name == "pi05":
        embed_numbers(policy, folder / FOLDER)
    offset = frames.object - frames.state[:, :3]
    offset = (offset - offset.mean(0)) / offset.std(0)
    noise = 0.02 * measured["observation.state"]["std"]

    def make_batch(chosen: Tensor, *, vary: bool) -> dict[str, Tensor]:
        images, state = frames.images(chosen), frames.state[chosen]
        if vary:
            images = vary_colours(images, generator)
            moved = torch.randint(-1, 2, (2,), generator=generator).tolist()
            images = images.roll(moved, (2, 3))  # a pixel is no more than the pictures differ between machines
            state = state + noise * torch.randn(state.shape, generator=generator)
        prompts = [frames.prompts[task] for task in frames.task[chosen].tolist()]
        raw = {
            "observation.image": images,
            "observation.state": state,
            "action": frames.action[chosen],
            "task": prompts,
        }
        batch: dict[str, Tensor] = preprocess(raw)
        batch["action"] = torch.cat([batch["action"], offset[chosen, None].expand(-1, CHUNK, -1)], -1)
        return batch

    policy.config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM + offset.shape[-1],))}
    trained = {name: p for name, p in policy.named_parameters() if "lm_head" not in name}
    average = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_cosine(step, steps))
    rows = frames.rows(held_out=False)
    held_out = frames.rows(held_out=True)[:: max(1, len(frames.rows(held_out=True)) // 256)]
    # In what a normalised action is told: its standard deviation, or half of what lies between the outer quantiles.
    of_action = measured["action"]
    spread = (of_action["q99"] - of_action["q01"]) / 2 if policy.name == "pi05" else of_action["std"]

    def validate() -> str:
        """Mean difference of sampled actions from the expert's, in the environment's units, over held-out frames."""
        noise = torch.randn(
            len(held_out), CHUNK, policy.config.max_action_dim, generator=torch.Generator().manual_seed(1)
        )
        policy.eval()
        off = []
        with torch.no_grad():
            for part in torch.split(torch.arange(len(held_out)), 64):
                batch = make_batch(held_out[part], vary=False)
                difference = policy.predict_action_chunk(batch, noise=noise[part]) - batch["action"]
                off.append((difference[..., :ACTION_DIM] * spread).abs().mean((1, 2)))
        policy.train()
        by_row = torch.cat(off)
        by_task = [f"{by_row[frames.task[held_out] == task].mean().item():.3f}" for task in range(len(frames.prompts))]
        return f"{by_row.mean():.4f} ({' '.join(by_task)})"

    def swap(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Puts weights into the policy; returns those that it had."""
        with torch.no_grad():
            had = {name: p.detach().clone() for name, p in trained.items()}
            for name, p in trained.items():
                p.copy_(weights[name])
        return had

    policy.train()
    bar = tqdm(range(1, steps + 1), desc="policy", mininterval=10, smoothing=0.02)
    losses = []
    for step in bar:
        chosen = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
        loss, _ = policy.forward(make_batch(chosen, vary=True))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(EMA, 1 - 5 / (step + 5))
        with torch.no_grad():
            for name, p in trained.items():
                average[name].lerp_(p, 1 - decay)
        losses.append(loss.item())
        if step % VALIDATE_EVERY == 0 or step == steps:
            raw = swap(average)
            mean_loss = sum(losses[-VALIDATE_EVERY:]) / len(losses[-VALIDATE_EVERY:])
            tqdm.write(f"step {step}: loss {mean_loss:.4f}, held-out actions off by {validate()}")
            outputs = policy.config.output_features
            policy.config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))}
            save(policy, measured, vocabulary, folder)
            policy.config.output_features = outputs
            if step < steps:
                swap(raw)
    policy.eval()
