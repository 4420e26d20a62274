"""LeRobot's `PI0Policy` trained by its own loss, `PI0Policy.forward`, on the demonstrations."""

from pathlib import Path

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from torch import Tensor, nn
from tqdm import tqdm

from .data import Frames, vary_colours
from .model import ACTION_DIM, CHUNK, Statistics, make_processors, save
from .vision import warm_up_cosine

BATCH, RATE, EMA = 32, 8e-4, 0.996
VALIDATE_EVERY = 1000


def statistics(frames: Frames) -> Statistics:
    """Returns mean and standard deviation of the states and of the actions of all chunks."""
    actions = frames.action.flatten(0, 1)
    return {
        "observation.state": {"mean": frames.state.mean(0), "std": frames.state.std(0)},
        "action": {"mean": actions.mean(0), "std": actions.std(0)},
    }


def train(policy: PI0Policy, frames: Frames, folder: Path, *, steps: int, seed: int, vocabulary: list[str]) -> None:
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
    preprocess, _ = make_processors(measured, vocabulary, folder)
    everything = {"observation.state": frames.state, "action": frames.action}
    prompts = [frames.prompts[task] for task in frames.task.tolist()]
    batch = preprocess(everything | {"observation.image": torch.zeros(len(prompts), 3, 1, 1), "task": prompts})
    offset = frames.object - frames.state[:, :3]
    offset = (offset - offset.mean(0)) / offset.std(0)
    targets = torch.cat([batch["action"], offset[:, None].expand(-1, CHUNK, -1)], -1)
    tokens, present = batch["observation.language.tokens"], batch["observation.language.attention_mask"]

    def make_batch(chosen: Tensor, *, vary: bool) -> dict[str, Tensor]:
        images, state = frames.images(chosen), batch["observation.state"][chosen]
        if vary:
            images = vary_colours(images, generator)
            moved = torch.randint(-1, 2, (2,), generator=generator).tolist()
            images = images.roll(moved, (2, 3))  # a pixel is no more than the pictures differ between machines
            state = state + 0.02 * torch.randn(state.shape, generator=generator)
        return {
            "observation.image": images,
            "observation.state": state,
            "observation.language.tokens": tokens[chosen],
            "observation.language.attention_mask": present[chosen],
            "action": targets[chosen],
        }

    policy.config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (targets.shape[-1],))}
    trained = {name: p for name, p in policy.named_parameters() if "lm_head" not in name}
    average = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_cosine(step, steps))
    rows = frames.rows(held_out=False)
    held_out = frames.rows(held_out=True)[:: max(1, len(frames.rows(held_out=True)) // 256)]
    spread = measured["action"]["std"]

    def validate() -> str:
        """Mean difference of sampled actions from the expert's, in the environment's units, over held-out frames."""
        noise = torch.randn(
            len(held_out), CHUNK, policy.config.max_action_dim, generator=torch.Generator().manual_seed(1)
        )
        policy.eval()
        with torch.no_grad():
            sampled = [
                policy.predict_action_chunk(make_batch(held_out[part], vary=False), noise=noise[part])
                for part in torch.split(torch.arange(len(held_out)), 64)
            ]
        policy.train()
        off = ((torch.cat(sampled) - targets[held_out])[..., :ACTION_DIM] * spread).abs().mean((1, 2))
        by_task = [f"{off[frames.task[held_out] == task].mean().item():.3f}" for task in range(len(frames.prompts))]
        return f"{off.mean():.4f} ({' '.join(by_task)})"

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
